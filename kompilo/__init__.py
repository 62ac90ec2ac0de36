"""Kompilo's public interface. Names resolve on first use, so that `import kompilo` loads no compiler."""

from importlib import import_module
from typing import Any

from .compiler.version import VERSION

_EXPORTS = {
    "Pipeline": "kompilo.compiler.runtime.executor.pipeline",
    "compile": "kompilo.compiler.driver",
    "load": "kompilo.compiler.runtime.module",
    "tune": "kompilo.compiler.tune.tune",
    "errors": "kompilo.errors",
}

__version__ = VERSION
__all__ = ["Pipeline", "compile", "errors", "load", "tune"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'kompilo' has no attribute {name!r}")
    module = import_module(_EXPORTS[name])
    value = module if name == "errors" else getattr(module, name)
    globals()[name] = value
    return value
