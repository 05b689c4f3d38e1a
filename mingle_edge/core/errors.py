"""The one error tree of `mingle_edge`. Every message names the thing, the rule, the value and the next step."""

import os


class MingleError(Exception):
    """Base of everything `mingle_edge` raises on purpose; the command line turns it into one line and an exit code."""


class FileError(MingleError):
    """A file is missing, may not be read, is no plain file, is too large, or is no text in UTF-8."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)  # both, so that it can be pickled
        self.path = path
        self.reason = reason
        """the message without the path, from its verb on"""

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


class OutputError(MingleError):
    """A file or folder of results cannot be written where it was asked for."""


class CheckpointError(MingleError):
    """A checkpoint cannot be read, is of another architecture, or holds values that are not finite."""


class TaskFileError(MingleError):
    """A task file is malformed, or names files, tasks or settings that do not exist."""


class ImageFolderError(MingleError):
    """A folder of images is missing, empty, or holds a file that cannot be decoded."""


class HubError(MingleError):
    """A model or data set on the Hugging Face hub does not exist, needs a login, or cannot be reached."""


class HubUnreachableError(HubError):
    """The hub cannot be reached, or a download failed: the name may be right."""


class MergedModelError(MingleError):
    """A merged model folder is damaged, of another format version, or computes what is no number."""


class NoMergedModelError(MergedModelError):
    """There is no merged model at a path, or none of its tasks has a name that was asked for."""


class MergeConflictError(MergedModelError):
    """A folder cannot take a merge: it holds other files, other tasks, or a model of another backbone or other settings."""


class DiskSpaceError(MergedModelError):
    """The disk has no room for a merged model."""


class OptionError(MingleError):
    """An option does nothing for the model that it is given with, or asks for more than there is."""


class DeviceError(MingleError):
    """The requested compute device does not exist on this machine."""


class ComparisonError(MingleError):
    """A comparison cannot be made as asked: an unknown method or parameter, seeds among the test images, nothing to tune on."""


MOST_SHOWN = 60  # characters of a value in a message


def shown(value: object) -> str:
    """Return a value for a message: its `repr`, cut where it is long, and said in words where it has none."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes out no integer of more than 4300 digits
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
