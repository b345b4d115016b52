"""Write docs/methods.md from the method files: what each computes, what it costs, when to use it.

Run as ``make methods-page``; a test says when the page is out of date. Parameters are counted on the base named here.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path

from remora.methods.base import Method, num_params
from remora.methods.registry import get_method, list_methods
from remora.models.base import Base
from remora.models.load import load_base
from remora.results.wording import rate

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
MODEL = "minilm"
FAMILIES = ("full", "head", "additive", "partial", "reparameterized", "hybrid", "unified")
INTRO = f"""# Methods

Written by `scripts/methods_page.py` from the files in `src/remora/methods`. Families are those of the survey by
Xu et al. 2023 (arXiv:2312.12148). Parameters are those of the adapter with its default settings on `{MODEL}`
(22.7 M parameters); the head comes on top. A method that shares the base trains beside others in one pack; the others
train weights of their own. `remora list methods --model YOUR_MODEL` counts on your base.

"""


def table(methods: Sequence[type[Method]], base: Base) -> str:
    """One line per method."""
    lines = [
        "| method | id | family | parameters | shares the base | mergeable | PEFT type | learning rates |",
        "|---|---|---|---:|---|---|---|---|",
    ]
    for cls in methods:
        count = num_params(get_method(cls.name), base)
        lines.append(
            f"| [{cls.label}](#{cls.name}) | `{cls.name}` | {cls.family} | {count:,} | {yes(cls.shares_base)} "
            f"| {yes(cls.mergeable)} | {cls.peft_type or '-'} | {rate(cls.lr_range.low)} to {rate(cls.lr_range.high)} |"
        )
    return "\n".join(lines) + "\n"


def section(cls: type[Method]) -> str:
    """What a method's own file says of it, and its settings."""
    text = (inspect.getdoc(inspect.getmodule(cls)) or "").replace("*", r"\*")
    fields = cls.Config.model_fields.items()
    settings = [f"`{name}` ({field.get_default(call_default_factory=True)!r})" for name, field in fields]
    parts = [f'## <a id="{cls.name}"></a>{cls.label}', text, f"**Use it** {cls.use_when}."]
    if settings:
        parts.append("Settings: " + ", ".join(settings) + ".")
    return "\n\n".join(parts) + "\n"


def yes(value: bool) -> str:
    """A fact as the table shows it."""
    return "yes" if value else "no"


def page(base: Base) -> str:
    """The whole page."""
    methods = sorted(list_methods(), key=lambda cls: (FAMILIES.index(cls.family), cls.name))
    return INTRO + "\n".join([table(methods, base), *map(section, methods)])


if __name__ == "__main__":
    PAGE.write_text(page(load_base(MODEL)), encoding="utf-8")
