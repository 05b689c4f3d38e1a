"""A first task file from folders as trainings and data sets leave them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mingle_edge.core.errors import FileError, OutputError
from mingle_edge.files.output_path import check_output_file, write_output
from mingle_edge.files.plain_file import find_file, missing


@dataclass(frozen=True)
class StartingTaskFile:
    """A task file that was written, and what its user should know of it."""

    path: Path
    tasks: list[str]
    missing: list[str]  # what was not found and is a comment in the file, as sentences
    left_out: dict[Path, str]  # what looked like a checkpoint and is none of a task -> why


def init(
    paths: Sequence[str | Path],
    output: str | Path = "TASKS.toml",
    *,
    backbone: str | None = None,
    backbone_weights: str | None = None,
    overwrite: bool = False,
) -> StartingTaskFile:
    """Write a task file for the checkpoints and images in some folders, and return what was found and what was not.

    Tasks are named after files or folders. Class names come from `config.json`, a text file or class folders, heads from files
    beside the checkpoints, images from folders whose path names the task and a split (train, val, test).
    What was not found is a comment; nothing is guessed but the backbone, where one checkpoint is clearly in the middle of all.

    Args:
        paths: folders and files of checkpoints, and folders of images.
        output: the file to write; paths in it start from its folder.
        backbone: the pretrained model as `[backbone] model` takes it: an open_clip name, an open_clip JSON config, a folder, or
            a model on the hub; None: looked for among the checkpoints and in what they say of themselves.
        backbone_weights: a file, folder or tag of open_clip, where `backbone` brings none.
        overwrite: write it also where there is a file.

    Raises:
        CheckpointError: there is no checkpoint of a task.
        FileError: one of `paths` does not exist.
        OutputError: there is a file at `output`, or it cannot be written.
    """
    output = Path(output).absolute()
    check_output_file(output)
    if not overwrite and os.path.lexists(output):
        raise OutputError(f"{output} exists and would be lost; name another file with -o, or add --overwrite")
    given = [Path(os.path.abspath(path)) for path in paths]
    for path in given:
        if find_file(path) is None:
            raise FileError(path, missing())
    from mingle_edge.checking.task_file_draft import draft_task_file

    draft = draft_task_file(given, output.parent, backbone, backbone_weights)
    write_output(output, "\n".join(draft.lines) + "\n")
    return StartingTaskFile(output, draft.tasks, draft.missing, draft.left_out)
