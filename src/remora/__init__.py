"""Remora: which fine-tuning method should I use on my data, how well does it really do, and what does it cost?"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remora.api import compare
    from remora.predict import Prediction, load_adapter

__all__ = ["Prediction", "__version__", "compare", "load_adapter"]
__version__ = "0.1.0"

_HOMES = {"compare": "remora.api", "load_adapter": "remora.predict", "Prediction": "remora.predict"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import remora`` and the command line's help stay fast."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'remora' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
