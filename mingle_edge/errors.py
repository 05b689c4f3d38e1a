"""The one error tree of `mingle_edge`. Every message names the thing, the rule, the value and the next step."""


class MingleError(Exception):
    """Base of everything `mingle_edge` raises on purpose; the command line turns it into one line and exit code 2."""


class CheckpointError(MingleError):
    """A checkpoint cannot be read, is of another architecture, or holds values that are not finite."""


class TaskFileError(MingleError):
    """A task file is malformed, or names files, tasks or settings that do not exist."""


class ImageFolderError(MingleError):
    """A folder of images is missing, empty, or holds a file that cannot be decoded."""


class HubError(MingleError):
    """A model or data set on the Hugging Face hub does not exist, needs a login, or cannot be reached."""


class MergedModelError(MingleError):
    """A merged model folder is damaged, of a newer format, or does not fit what is being added to it."""


class DeviceError(MingleError):
    """The requested compute device does not exist on this machine."""


class ComparisonError(MingleError):
    """A comparison cannot be made as asked: an unknown method or parameter, seeds among the test images, nothing to tune on."""
