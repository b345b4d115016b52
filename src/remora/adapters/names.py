"""Module names of a classification model, and the shortest suffixes that mean exactly the modules wanted.

peft takes a target for every module whose name ends with it. ``output.dense`` would thus mean two layers of BERT where
one is wanted; a suffix is used only if everything it matches in the whole model is wanted.
"""

from collections.abc import Collection, Sequence

from remora.models.base import Base
from remora.models.heads import HeadTemplate


def module_names(base: Base, head: HeadTemplate) -> frozenset[str]:
    """Names of all modules of transformers' model around a base that has the head."""
    backbone = {base.arch.hf_prefix + name for name, _ in base.model.named_modules() if name}
    outer = {name.rsplit(".", 1)[0] for name in (*head.shapes, *head.pooler)}
    return frozenset(backbone | outer)


def short_names(wanted: Sequence[str], names: Collection[str]) -> list[str]:
    """Suffixes that peft matches to exactly the wanted modules.

    Args:
        wanted: full names of modules.
        names: full names of all modules of the model.

    Returns:
        Distinct suffixes, in the order of the modules they first stand for.
    """
    chosen: dict[str, None] = {}
    for name in wanted:
        if not any(_matches(suffix, name) for suffix in chosen):
            chosen[_shortest(name, set(wanted), names)] = None
    return list(chosen)


def _shortest(name: str, wanted: set[str], names: Collection[str]) -> str:
    parts = name.split(".")
    for length in range(1, len(parts)):
        suffix = ".".join(parts[-length:])
        if suffix.isdecimal():
            continue
        if all(other in wanted for other in names if _matches(suffix, other)):
            return suffix
    return name


def _matches(suffix: str, name: str) -> bool:
    return name == suffix or name.endswith("." + suffix)
