"""What a GPU's driver says when it fails, and the sentences that users get for it.

The names and texts are those of CUDA's driver (CUresult) and runtime (cudaError_t), and HIP's, which are alike.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ..errors import InputError, KompiloError

_AGAIN = "the process must be started again."


class _Failure(NamedTuple):
    """A sentence, the errors by CUDA's numbers, and the words they are told by: lower-case letters and digits only."""

    meaning: str
    codes: frozenset[int]
    words: tuple[str, ...]


def _failure(meaning: str, codes: set[int], *words: str) -> _Failure:
    return _Failure(meaning, frozenset(codes), words)


_NO_MEMORY = _failure(
    "the GPU has not enough memory for inputs of these sizes.", {2}, "outofmemory", "memoryallocation"
)
_FAILURES = (
    _NO_MEMORY,
    # After these the GPU does nothing more for this process.
    _failure(
        f"a kernel ran longer than this machine allows its GPU, and was ended; {_AGAIN}",
        {702},
        "launchtimedout",
        "launchtimeout",
    ),
    _failure(
        f"a kernel read or wrote memory that is not its own on the GPU; {_AGAIN}",
        {700},
        "illegalmemoryaccess",
        "illegaladdress",
    ),
    _failure(f"a check in a kernel failed on the GPU; {_AGAIN}", {710}, "errorassert", "sideassert"),
    _failure(f"a kernel failed on the GPU, its stack being damaged; {_AGAIN}", {714}, "hardwarestackerror"),
    _failure(f"a kernel met an instruction that the GPU does not know; {_AGAIN}", {715}, "illegalinstruction"),
    _failure(
        f"a kernel read or wrote the GPU's memory at an address that is not aligned; {_AGAIN}",
        {716},
        "misalignedaddress",
    ),
    _failure(
        f"a kernel used an address of another kind of the GPU's memory; {_AGAIN}",
        {717},
        "invalidaddressspace",
        "sharedaddressspace",
    ),
    _failure(
        f"a kernel went on at an address on the GPU that holds no code; {_AGAIN}",
        {718},
        "invalidpc",
        "invalidprogramcounter",
    ),
    _failure(
        f"a kernel failed on the GPU; {_AGAIN}", {719}, "unspecifiedlaunchfailure", "launchfailed", "launchfailure"
    ),
    _failure(f"the GPU's memory is damaged (an uncorrectable error); {_AGAIN}", {214, 220}, "uncorrectable"),
    # After those that follow it goes on.
    _failure(
        "a kernel needs more registers or threads than this GPU has.",
        {701},
        "launchoutofresources",
        "toomanyresources",
    ),
    _failure("the artifact's code is not for this GPU.", {209}, "nobinaryforgpu", "nokernelimage"),
    _failure(
        "this GPU's driver does not take the artifact's code; it may be too old for it.",
        {200, 218, 222, 300},
        "invalidimage",
        "invalidkernelimage",
        "imageisinvalid",
        "invalidptx",
        "unsupportedptx",
        "invalidsource",
    ),
)
_CODE = re.compile(r"error\w*:? \w+ \((\d+)\)", re.IGNORECASE)
# How TVM's runtimes for GPUs begin what they say of their drivers, and the names of errors.
_DRIVER = re.compile(
    r"^(?:CUDA|ROCM|HIP)\w*\b.*?:|\bcu\w+\(.*failed with error|CUDA_ERROR_\w+|cudaError\w+|hipError\w+", re.I
)
_NAME = re.compile(r"CUDA_ERROR_\w+|cudaError\w+|hipError\w+")


def failure_of(error: Exception, hint: str | None) -> KompiloError | None:
    """What to raise for an `error` that the GPU's driver tells, with `hint`; None if it is of another kind."""
    text = str(error)
    plain = re.sub(r"[^a-z0-9]", "", text.lower())
    told = _CODE.search(text)
    code = int(told[1]) if told else None
    for failure in _FAILURES:
        if code in failure.codes or any(words in plain for words in failure.words):
            return (InputError if failure is _NO_MEMORY else KompiloError)(failure.meaning, hint)
    if not _DRIVER.search(text):
        return None
    name = _NAME.search(text)
    words = name[0] if name else text.strip().splitlines()[0].rstrip(".: ")
    return KompiloError(f"the GPU's driver failed ({words}).", hint)
