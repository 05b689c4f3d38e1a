"""The one error tree of the export. Every message names the thing, the rule, the value and the next step."""


class ExportError(Exception):
    """Base of everything the export raises on purpose."""


class OptionError(ExportError):
    """An option does not fit the merged model: a `top_k` out of range, a task named twice, no task at all."""


class OutputError(ExportError):
    """The bundle's folder is in use or cannot be written."""


class DiskSpaceError(OutputError):
    """The disk has no room for the bundle."""


class ParityError(ExportError):
    """The graphs do not compute what the PyTorch implementation computes."""
