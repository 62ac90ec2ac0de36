"""Every error a user can cause. Each message is one sentence: what was expected and what was found."""


class KompiloError(Exception):
    """Base of all errors caused by input rather than by a defect; the command line exits with code 2.

    Args:
        message: one sentence naming the operator, argument or file, what was expected and what was found.
        hint: what the user can do about it, or None.
    """

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} Hint: {self.hint}" if self.hint else self.message


class ModelError(KompiloError):
    """The ONNX model cannot be read, is inconsistent, or uses an operator that is not supported."""


class InputError(KompiloError):
    """A tensor given to a compiled model has the wrong name, shape or dtype."""


class ArtifactError(KompiloError):
    """A .kpo file is missing, truncated, damaged, of a newer format, or not for this machine."""


class TargetError(KompiloError):
    """A target or preset is unknown, or lacks a tool it needs (a linker, a driver)."""


class UsageError(KompiloError):
    """The command line or a Python argument is wrong."""


class DeviceError(KompiloError):
    """No device is left that could do the work: each failed, ended or does not answer."""


class DeadlineError(KompiloError):
    """A request was not answered by the time that it had."""
