PYTHON ?= python3
VENV ?= .venv
ORT_OLD = .venv-ort-1.20
TRANSFORMERS_4 = .transformers-4
JAVASCRIPT = examples/node_modules
LATEST = .venv-latest
BUILD = .venv-build
PARALLEL = --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder

.PHONY: demo test test-latest devices javascript docs wheel lock clean

# The demo: trains, merges, exports and runs four tiny tasks; results in demo-output/.
demo: $(VENV)/.installed
	$(VENV)/bin/mingle-edge demo -o demo-output

# Everything CI runs: lint, types, tests. A file's tests run in one process, since they share what is slow to make.
test: $(VENV)/.installed $(ORT_OLD)/.installed $(TRANSFORMERS_4)/.installed $(JAVASCRIPT)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	MINGLE_ORT_1_20=$(ORT_OLD)/bin/python MINGLE_TRANSFORMERS_4=$(TRANSFORMERS_4) $(VENV)/bin/pytest $(PARALLEL)

# The demo's bundles on every kind of device, emulated where this is none; writes docs/devices.md. Goes on where it was killed.
devices: $(VENV)/.installed
	$(VENV)/bin/python -m devices --page docs/devices.md

# The packages of the examples in JavaScript. Their install scripts would fetch libraries for CUDA from elsewhere; none is needed.
javascript: $(JAVASCRIPT)/.installed

# The documentation as a site, in site/. First writes the tables of settings and commands that the code gives (docs/hooks).
docs: $(VENV)/.installed
	$(VENV)/bin/python docs/hooks/reference.py
	$(VENV)/bin/mkdocs build --strict

# The same with the newest release of every dependency instead of those in the lock file.
test-latest:
	$(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/pip install --quiet --upgrade --upgrade-strategy=eager --editable '.[cpu,merge,demo,serve,docs,dev]'
	touch $(LATEST)/.installed
	$(MAKE) test VENV=$(LATEST)

$(VENV)/.installed: pyproject.toml locks/development.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --require-hashes --requirement locks/development.txt
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# The oldest ONNX Runtime a bundle promises to run on, alone with numpy and Pillow.
$(ORT_OLD)/.installed: locks/onnxruntime-1.20.txt
	$(PYTHON) -m venv $(ORT_OLD)
	$(ORT_OLD)/bin/pip install --quiet --require-hashes --requirement $<
	touch $@

# The last transformers before 5, a folder to put before the environment's own.
$(TRANSFORMERS_4)/.installed: locks/transformers-4.txt $(VENV)/.installed
	rm -rf $(TRANSFORMERS_4)
	$(VENV)/bin/pip install --quiet --require-hashes --no-deps --target $(TRANSFORMERS_4) --requirement $<
	touch $@

# The package: its source and its wheel, in dist/. Only what builds them is installed, from the lock file.
wheel: $(BUILD)/.installed
	rm -rf dist
	$(BUILD)/bin/hatchling build

$(BUILD)/.installed: locks/development.txt
	$(PYTHON) -m venv $(BUILD)
	sed -n -E '/^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/,/[^\\]$$/p' $< > $(BUILD)/hatchling.txt
	$(BUILD)/bin/pip install --quiet --require-hashes --requirement $(BUILD)/hatchling.txt
	touch $@

$(JAVASCRIPT)/.installed: examples/package-lock.json | $(VENV)/.installed
	$(VENV)/bin/npm ci --ignore-scripts --no-audit --no-fund --silent --prefix examples
	touch $@

# Writes the lock files, for every platform. Releases that are in them stay; delete a file first to move it to the newest.
COMPILE = .venv-lock/bin/uv pip compile --quiet --universal --python-version=3.11 --generate-hashes --custom-compile-command='make lock'
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet uv
	$(COMPILE) --extra=cpu --extra=merge --extra=demo --extra=serve --extra=docs --extra=dev --output-file=locks/development.txt pyproject.toml > /dev/null
	$(COMPILE) --output-file=locks/onnxruntime-1.20.txt locks/onnxruntime-1.20.in > /dev/null
	$(COMPILE) --no-deps --output-file=locks/transformers-4.txt locks/transformers-4.in > /dev/null

clean:
	rm -rf $(VENV) $(ORT_OLD) $(TRANSFORMERS_4) $(JAVASCRIPT) $(LATEST) $(BUILD) .venv-lock dist site demo-output devices/.cache
