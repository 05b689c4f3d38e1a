"""The one error tree of the runtime. Every message names the thing, the rule, the value and the next step."""


class EdgeError(Exception):
    """Base of everything the runtime raises on purpose."""


class BundleError(EdgeError):
    """A bundle is missing files, damaged, of another format version, or breaks a rule of `docs/bundle-format.md`."""


class NoBundleError(BundleError):
    """There is no bundle at a path."""


class DeviceDiffersError(BundleError):
    """A bundle that is intact computes other answers on this device than on the machine that exported it."""


class RegressionError(EdgeError):
    """A profile is worse than an earlier one, beyond the noise and by more than was allowed."""


class ExpertError(BundleError):
    """One task's expert cannot be read, or does not fit the tower it is meant for."""


class HeadError(EdgeError):
    """A file of a head cannot be read, or does not belong to the bundle."""


class ProviderError(EdgeError):
    """ONNX Runtime is missing or too old, or lacks the execution provider that was asked for."""


class ThreadsError(ProviderError):
    """A number of threads is none, or more than any device has."""


class ImageError(EdgeError):
    """An image cannot be decoded, or an array does not look like one."""


class UnknownTaskError(EdgeError):
    """A task name is not among the bundle's tasks."""


class BudgetError(EdgeError):
    """An expert budget is malformed or smaller than what a single run needs."""


class DeviceMemoryError(EdgeError):
    """The device has no memory left for an expert or a run, even with no other expert in its memory."""
