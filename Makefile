PYTHON ?= python3
VENV ?= .venv
ORT_OLD = .venv-ort-1.20

.PHONY: demo test clean

# The demo: trains, merges, exports and runs four tiny tasks; results in demo-output/.
demo: $(VENV)/.installed
	$(VENV)/bin/mingle-edge demo -o demo-output

# Everything CI runs: lint, types, tests.
test: $(VENV)/.installed $(ORT_OLD)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	MINGLE_ORT_1_20=$(ORT_OLD)/bin/python $(VENV)/bin/pytest

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet --editable '.[cpu,merge,demo,dev]'
	touch $@

# The oldest ONNX Runtime a bundle promises to run on, alone with numpy and Pillow.
$(ORT_OLD):
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet onnxruntime==1.20.1 numpy Pillow || (rm -rf $@; exit 1)

clean:
	rm -rf $(VENV) $(ORT_OLD) demo-output
