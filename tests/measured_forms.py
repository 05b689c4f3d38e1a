"""Merged models whose tasks' forms were measured, as a merge on ten seeds or more records them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from mingle_edge.experts.expert_form import ExpertForm
from mingle_edge.merging.merged_model import MergedModel


def with_forms(model: MergedModel, folder: Path, forms: Mapping[str, Sequence[ExpertForm]]) -> MergedModel:
    """Copy a merged model into a new folder, with these forms in the records of tasks."""
    shutil.copytree(model.path, folder)
    index = json.loads((folder / "mingle.json").read_text())
    for task in index["tasks"]:
        task["record"]["forms"] = [form.to_json() for form in forms.get(task["name"], ())]
    (folder / "mingle.json").write_text(json.dumps(index))
    return MergedModel.open(folder)


def falling(ranks: Sequence[int], *, points: float) -> list[ExpertForm]:
    """Forms in all precisions that lose `points` over their rank, in 8 bits a tenth more than in fp32, in 4 bits a half."""
    more = {"fp32": 1.0, "int8": 1.1, "int4": 1.5}
    return [
        ExpertForm(rank, precision, factor * points / rank, 1 - factor * points / rank / 100)
        for rank in ranks
        for precision, factor in more.items()
    ]
