"""What can go wrong before anything is measured."""


class DeviceFileError(ValueError):
    """A file in `kinds/`, or a name of a device or bundle on the command line, is wrong."""


class UnavailableError(Exception):
    """This machine lacks what a measurement needs; the message says what to install. Its cells stay unmeasured."""
