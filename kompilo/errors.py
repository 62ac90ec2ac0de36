"""The errors that Kompilo raises for what its user gave it; each message is one sentence."""

from .compiler.errors import (
    ArtifactError,
    DeadlineError,
    DeviceError,
    InputError,
    KompiloError,
    ModelError,
    TargetError,
    UsageError,
)

__all__ = [
    "ArtifactError",
    "DeadlineError",
    "DeviceError",
    "InputError",
    "KompiloError",
    "ModelError",
    "TargetError",
    "UsageError",
]
