"""Commands that save weights anew, for messages about files that cannot be read as they are. They run where the file is
trusted: loading it may run code from it. They write a file of another name, beside nothing that it could replace."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

_LOAD = 's = torch.load({path}, map_location="cpu", weights_only=False)'


def save_again(path: Path) -> str:
    """Return a command that loads a file of PyTorch and saves it as today's PyTorch does."""
    return _python(path, f"import torch; {_LOAD}; torch.save(s, {{new}})")


def save_unpickled(path: Path) -> str:
    """Return a command that saves a plain pickle as PyTorch saves it."""
    return _python(path, 'import pickle, torch; torch.save(pickle.load(open({path}, "rb")), {new})')


def save_exported(path: Path) -> str:
    """Return a command that saves the weights of a program of torch.export."""
    return _python(path, "import torch; torch.save(torch.export.load({path}).state_dict, {new})")


def save_part(path: Path, prefix: str) -> str:
    """Return a command that saves the tensors under a prefix, and no others."""
    if path.suffix == ".safetensors":
        load = "from safetensors.torch import load_file, save_file; s = load_file({path})"
        part = f'{{{{k: v for k, v in s.items() if k.startswith("{prefix}")}}}}'
        return _python(path, f"{load}; save_file({part}, {{new}})")
    wrapper, _, rest = prefix.partition(".")
    part = f'{{{{k: v for k, v in s.get("{wrapper}", s).items() if k.startswith(("{prefix}", "{rest}"))}}}}'
    return _python(path, f"import torch; {_LOAD}; torch.save({part}, {{new}})")


def save_dense(path: Path, prefix: str) -> str:
    """Return a command that saves sparse or quantized tensors and numpy arrays as plain tensors."""
    wrapper = prefix.partition(".")[0]
    dense = "torch.as_tensor(v).dequantize() if getattr(v, 'is_quantized', False) else torch.as_tensor(v).to_dense()"
    dense = dense.replace("'", '"')
    saved = f'torch.save({{{{k: {dense} for k, v in s.get("{wrapper}", s).items()}}}}, {{new}})'
    return _python(path, f"import torch; {_LOAD}; {saved}")


def _python(path: Path, code: str) -> str:
    new = f"{path.stem}-saved-anew{'.safetensors' if path.suffix == '.safetensors' else '.pt'}"
    return f"python -c {shlex.quote(code.format(path=json.dumps(str(path)), new=json.dumps(new)))}"
