"""Finding the one vision tower among the names in a file, by what the names after a prefix mean and not by the prefix.

Trainings put a model under names of their own (`state_dict.module.`, `model_ema.`, `image_encoder.model.`, `_orig_mod.`), in
any order and depth. A tower is where some naming knows a patch embedding and blocks; what lies before them is the prefix.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mingle_edge.checkpoints.folding import NAMINGS
from mingle_edge.checkpoints.stored_parameters import StoredParameter

_MOST_PARTS = 8  # of a name within a tower, between dots
_MOST_TOWERS = 8  # looked at in one file
_TEXT = (
    *("text_model.", "text_projection", "text.", "token_embedding.", "positional_embedding", "transformer.", "ln_final."),
    *("logit_scale", "logit_bias", "attn_mask", "input_resolution", "context_length", "vocab_size"),
)
"""How names begin that lie beside a vision tower in a whole model."""
_CLASSIFIER = re.compile(r"(classifier|classification_head|head|fc)\.(\d+\.)?(weight|bias)")  # on the tower's embeddings


@dataclass(frozen=True)
class NamedTower:
    """A vision tower among the names in a file."""

    naming: str
    prefix: str  # before every name of the tower
    parameters: dict[str, StoredParameter]  # by internal name
    unexpected: list[str]  # names in the file that lie in the tower and mean nothing

    @property
    def model_prefix(self) -> str:
        """What comes before the names of the whole model, of which the tower is a part."""
        return self.prefix.removesuffix("visual.")


def find_towers(names: Iterable[str]) -> list[NamedTower]:
    """Return every vision tower among names, in the order of their patch embeddings; at most a few are looked for."""
    names = list(names)
    blocks: set[tuple[str, str]] = set()
    patches: dict[str, list[tuple[str, str]]] = defaultdict(list)  # key of a patch embedding -> naming and prefix
    for key in names:
        for prefix, name in _splits(key):
            for naming, names_of in NAMINGS.items():
                for parameter in names_of.parameters(name, key):
                    if parameter.name.startswith("blocks."):
                        blocks.add((naming, prefix))
                    elif parameter.name == "patch_embedding.weight":
                        patches[key].append((naming, prefix))
    towers = []
    for candidates in patches.values():
        found = [_tower(naming, prefix, names) for naming, prefix in candidates if (naming, prefix) in blocks]
        if found:
            # The naming and prefix that explain most; of equals the shortest prefix, which leaves nothing beside the tower out.
            towers.append(max(found, key=lambda tower: (len(tower.parameters), -len(tower.prefix))))
        if len(towers) == _MOST_TOWERS:
            break
    return towers


def names_beside(names: Iterable[str], tower: NamedTower) -> tuple[list[str], list[str]]:
    """Return the names outside of a tower: those of the whole model it is a part of, with its text tower, and all others."""
    inside = {parameter.key for parameter in tower.parameters.values()} | set(tower.unexpected)
    outside = [key for key in names if key not in inside]
    model = {key for key in outside if key.removeprefix(tower.model_prefix).startswith(_TEXT)}
    model = {key for key in model if key.startswith(tower.model_prefix)}
    return [key for key in outside if key in model], [key for key in outside if key not in model]


def model_names(names: Iterable[str]) -> dict[str, str]:
    """Name in the file -> name within the model that holds the vision tower; of all names, as they are, where there is none."""
    names = list(names)
    towers = find_towers(names)
    prefix = towers[0].model_prefix if len(towers) == 1 else ""
    return {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def _splits(key: str) -> Iterator[tuple[str, str]]:
    """Yield a name split at each of its last dots, as a prefix and a name within it; first the whole name."""
    parts = key.rsplit(".", _MOST_PARTS)
    yield "", key
    for count in range(1, len(parts)):
        name = ".".join(parts[count:])
        yield key[: len(key) - len(name)], name


def _tower(naming: str, prefix: str, names: list[str]) -> NamedTower:
    parameters: dict[str, StoredParameter] = {}
    unexpected = []
    within = [(key, key[len(prefix) :]) for key in names if key.startswith(prefix)]
    nested = any(name.startswith("vision_model.") for _, name in within)
    for key, name in within:
        found = [parameter for parameter in NAMINGS[naming].parameters(name, key) if parameter.name not in parameters]
        parameters |= {parameter.name: parameter for parameter in found}
        beside = naming == "hugging_face" and (not name.startswith("vision_model.") if nested else name.startswith(_TEXT))
        # Within a whole CLIP a tower's output is its embedding, and a layer that follows inside the tower changes it.
        classifier = not prefix.endswith("visual.") and _CLASSIFIER.fullmatch(name)
        if not (found or beside or classifier or name.endswith("position_ids")):
            unexpected.append(key)
    return NamedTower(naming, prefix, parameters, unexpected)
