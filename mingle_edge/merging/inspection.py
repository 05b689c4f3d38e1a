"""Looking into the folders that `merge` and `export_bundle` write. Needs numpy; safetensors for a merged model alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mingle_edge.core.errors import FileError

if TYPE_CHECKING:
    from mingle_edge.merging.merged_model import MergedModel
    from mingle_edge_runtime.bundle.index import BundleIndex, SizedForm


def inspect(path: str | Path) -> MergedModel | BundleIndex:
    """Read the index of a merged model or a bundle, and nothing else of it, and return what it says.

    Raises:
        FileError: the folder is neither.
        MergedModelError: the index of the merged model is damaged, or of another format version.
        mingle_edge_runtime.BundleError: the same of a bundle.
    """
    path = Path(path)
    if (path / "bundle.json").exists():
        from mingle_edge_runtime.bundle.bundle import Bundle

        return Bundle.open(path).index
    if (path / "mingle.json").exists():
        from mingle_edge.merging.merged_model import MergedModel

        return MergedModel.open(path)
    raise FileError(path, "holds neither bundle.json nor mingle.json; give a bundle or a merged model")


def forms_worth_their_bytes(model: MergedModel, task: str) -> list[SizedForm]:
    """Return the forms a task's expert can be exported in together with int8, the smallest first, each better than all smaller.

    What they keep was measured when the task was merged; none where nothing was. Of the expert, shapes alone are read.

    Raises:
        MergedModelError: there is no such task, or its expert cannot be read.
    """
    from mingle_edge.experts.form_choice import RUN_AS_CODES, frontier, sized_forms

    forms = model.task(task).forms
    return frontier(sized_forms(forms, model.expert_shapes(task), RUN_AS_CODES)) if forms else []
