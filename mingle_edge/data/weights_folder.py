"""Which files of a folder hold its weights: as Hugging Face, open_clip and accelerate write it, or of one file."""

from __future__ import annotations

import re
import shlex
from pathlib import Path, PurePosixPath

from mingle_edge.core.errors import CheckpointError, FileError, shown
from mingle_edge.files.plain_file import find_file
from mingle_edge.files.text_file import read_json

OPEN_CLIP_CONFIG = "open_clip_config.json"
HUGGING_FACE_CONFIG = "config.json"
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HUGGING_FACE_FILES = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""What holds the weights, in order of preference."""
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pyt", ".pth.tar")

_SECOND_MODELS = ("model_1.safetensors", "model_1.safetensors.index.json", "pytorch_model_1.bin")
_BESIDE = ("optimizer", "scheduler", "scaler", "random_states", "rng_state", "training_args", "sampler", "dl_state_dict")
"""How files begin that accelerate and transformers write beside the weights."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_LISTED = 6  # files named in a message


def is_open_clip_folder(folder: Path) -> bool:
    """Say whether a folder describes its model in open_clip's way; where it does so in both ways, Hugging Face's comes first.

    Raises:
        FileError: it may not be looked at.
    """
    if find_file(folder / OPEN_CLIP_CONFIG) is None:
        return False
    try:
        record = read_json(folder / HUGGING_FACE_CONFIG)
    except FileError:
        return True
    return not (isinstance(record, dict) and "model_type" in record)  # timm's config.json has none


def weights_files(path: Path) -> list[Path]:
    """Return the files that hold the weights at a path: itself, those that an index of shards names, in order of their names,
    or what a folder has of these.

    Raises:
        CheckpointError: none, several of which one must be chosen, or a layout that its own library must convert first.
        FileError: it may not be looked at.
    """
    if not path.is_dir():
        return _shards(path) if path.name in HUGGING_FACE_FILES and path.suffix == ".json" else [path]
    folder = path
    known = (*OPEN_CLIP_FILES, *HUGGING_FACE_FILES) if is_open_clip_folder(folder) else (*HUGGING_FACE_FILES, *OPEN_CLIP_FILES)
    for name in known:
        if _there(folder / name):
            second = next((other for other in _SECOND_MODELS if _there(folder / other)), None)
            if second is not None and name in HUGGING_FACE_FILES:
                raise CheckpointError(
                    f"{folder} holds two models, {name} and {second}; name the file of the one that was fine-tuned from the "
                    "backbone"
                )
            return _shards(folder / name) if name.endswith(".index.json") else [folder / name]
    names = sorted(path.name for path in folder.iterdir())
    if foreign := _foreign_folder(folder, names):
        raise CheckpointError(f"{folder} {foreign}")
    found = [name for name in names if name.endswith(SUFFIXES) and not name.startswith(_BESIDE)]
    if shards := [name for name in found if _SHARD.search(name)]:
        index = f"{_SHARD.sub('', shards[0])}.index.json"
        raise CheckpointError(f"{folder} holds shards such as {shards[0]}, but not {index}, their index; copy or download it")
    if len(found) == 1:
        return [folder / found[0]]
    if found:
        listed = ", ".join(found[:_LISTED]) + (" ..." if len(found) > _LISTED else "")
        raise CheckpointError(f"{folder} holds several files of weights ({listed}); name one of them")
    raise CheckpointError(
        f"{folder} holds none of {', '.join((*HUGGING_FACE_FILES, *OPEN_CLIP_FILES))}, nor any other file of weights; name the "
        "file with the weights"
    )


def _there(path: Path) -> bool:
    return find_file(path) is not None or path.is_symlink()


def _foreign_folder(folder: Path, names: list[str]) -> str:
    """Say what a folder is that no weights can be read from as they lie; empty for any other."""
    quoted = shlex.quote(str(folder))
    if any(name.endswith(".distcp") for name in names):
        return (
            "holds shards of PyTorch's distributed checkpoint (.distcp), whose tensors lie in pieces; put them together with: "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
            f"{quoted} {shlex.quote(f'{folder.name}.pt')}"
        )
    if any(name.startswith("pytorch_model_fsdp") for name in names):
        inner = next(name for name in names if name.startswith("pytorch_model_fsdp"))
        return (
            "holds shards of FSDP as accelerate writes them; put them together with: accelerate merge-weights "
            f"{quoted}/{inner} {quoted}/merged, and name the folder merged in it"
        )
    zero = any(name.startswith(("zero_pp_rank_", "mp_rank_", "bf16_zero_pp_rank_")) for name in names)
    if zero or "zero_to_fp32.py" in names or any(name.startswith("global_step") for name in names):
        run = shlex.quote(str(folder.parent if zero else folder))
        return (
            "is a run of DeepSpeed, whose tensors lie in pieces; put them together with: "
            f"python {run}/zero_to_fp32.py {run} {run}/weights, and name the folder weights in it"
        )
    if "adapter_config.json" in names:
        return (
            "looks like a PEFT adapter, which holds differences and no weights; a task may be one; else merge it "
            "into its model: PeftModel.from_pretrained(model, FOLDER).merge_and_unload().save_pretrained(NEW_FOLDER)"
        )
    if "model_index.json" in names:
        return "is a pipeline of diffusers, which holds no CLIP vision tower that was fine-tuned; name a CLIP model's folder"
    if "saved_model.pb" in names or "checkpoint" in names or any(".data-00000-of" in name for name in names):
        return "holds a model of TensorFlow; convert it with transformers: CLIPModel.from_pretrained(FOLDER, from_tf=True)"
    if "flax_model.msgpack" in names or "tf_model.h5" in names:
        kind, option = ("Flax", "from_flax") if "flax_model.msgpack" in names else ("TensorFlow", "from_tf")
        return (
            f"holds weights of {kind} alone; convert them with transformers 4: "
            f"CLIPModel.from_pretrained(FOLDER, {option}=True).save_pretrained(NEW_FOLDER)"
        )
    return ""


def _shards(index: Path) -> list[Path]:
    try:
        weight_map = read_json(index)["weight_map"]
        names = sorted(set(weight_map.values()))
    except FileError as error:
        raise CheckpointError(f"{index} is not an index of shards: it {error.reason}") from error
    except (LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of shards ({error!r:.200}); copy or download it again") from error
    suffix = ".bin" if index.name == "pytorch_model.bin.index.json" else ".safetensors"
    for name in names:
        if not isinstance(name, str) or PurePosixPath(name).name != name or not name.endswith(suffix):
            raise CheckpointError(
                f"{index} names the shard {shown(name)}, but shards are {suffix} files beside it; do not use this folder"
            )
        if find_file(index.parent / name) is None:
            raise CheckpointError(f"{index} names the shard {name}, which is missing; copy or download it again")
    return [index.parent / name for name in names]
