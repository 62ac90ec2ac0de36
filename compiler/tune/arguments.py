"""What `kompilo.tune` was called with, looked at before anything is done."""

from __future__ import annotations

import os

from ..errors import UsageError


def check_arguments(
    target: object, trials: object, records: object, seed: object, workers: object, exhaustive: object, progress: object
) -> None:
    """Raises UsageError for what `kompilo.tune` cannot take, naming the argument."""
    rules = (
        ("target", target, isinstance(target, str), "the name of a target"),
        ("trials", trials, trials is None or _whole(trials, 1), "a whole number of at least 1, or None"),
        ("records", records, records is None or _folder(records), "a folder, or None"),
        ("seed", seed, _whole(seed, 0), "a whole number of at least 0"),
        ("workers", workers, workers is None or _whole(workers, 1) or isinstance(workers, str), "a number of processes,"
         ' "ray", "ray:ADDRESS", or None'),
        ("exhaustive", exhaustive, isinstance(exhaustive, bool), "True or False"),
        ("progress", progress, progress is None or callable(progress), "a function, or None"),
    )  # fmt: skip
    for name, value, fine, expected in rules:
        if not fine:
            raise UsageError(f"{name}: expected {expected}, found {value!r}.")


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _folder(value: object) -> bool:
    """Whether `value` can name a folder; the empty name would mean the current one."""
    if not isinstance(value, str | os.PathLike):
        return False
    name = os.fspath(value)
    return isinstance(name, str) and name != "" and "\0" not in name
