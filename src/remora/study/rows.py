"""The rows of a comparison: the methods asked for and the baselines that every comparison has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remora.adapters.generation import can_generate, not_generating
from remora.config.schema import ROW_SETTINGS, MethodEntry, ProtocolConfig, StudyConfig
from remora.data.kinds import TaskName
from remora.errors import ConfigError
from remora.methods.base import Method
from remora.methods.registry import get_method, list_methods
from remora.models.base import Base
from remora.results.schema import RowPlan

MAJORITY = "majority"
UNTRAINED = "untrained"
_MAJORITIES: dict[TaskName, str] = {
    "classification": "majority class",
    "regression": "majority class",
    "multiple-choice": "most frequent place",
    "token-classification": "most frequent tag",
    "coreference": "no mention",
    "prompt-classification": "majority class",
    "summarization": "beginning of the text",
}

DEFAULT_METHODS = (
    "bitfit",
    "dora",
    "full",
    "head",
    "ia3",
    "lora",
    "lora-fa",
    "lora-plus",
    "prompt-tuning",
    "rslora",
    "vera",
)
"""What is compared when a study names no methods: the field's most used ones, not all there are."""


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One row of the comparison.

    Args:
        id: method id, or one of the two baselines without training.
        label: unique in the study.
        settings: what the user set, without learning rate and stream.
        lrs: learning rates to try; one value is taken without tuning.
        stream: for A/A studies, see `TrialSpec.stream`.
        method: None for a baseline without training.
    """

    id: str
    label: str
    settings: Mapping[str, Any]
    lrs: tuple[float, ...]
    stream: str
    method: Method | None

    def full_settings(self) -> dict[str, Any]:
        """All settings of the method, defaults included, as plain JSON values."""
        return {} if self.method is None else self.method.config.model_dump(mode="json")

    def plan(self, note: str = "") -> RowPlan:
        """What the run directory says of the row beforehand."""
        method = self.method
        return RowPlan(
            method=self.id,
            label=self.label,
            family=method.family if method is not None else "baseline",
            settings=self.full_settings(),
            lrs=self.lrs if len(self.lrs) > 1 else (),
            note=note,
            changes_base=method is not None and not method.shares_base,
        )


def study_rows(config: StudyConfig, base: Base, task: TaskName = "classification") -> tuple[StudyRow, ...]:
    """The rows of a study, methods in the order asked for, then the baselines.

    Args:
        config: the study.
        base: to see that every target exists in it.
        task: decides what is called the majority.

    Raises:
        ConfigError: an unknown method, a setting that does not fit, a target that matches nothing; all at once. Or
            full fine-tuning of a quantised base.
    """
    usual = [name for name in DEFAULT_METHODS if not (config.prompts and name == "head")]
    entries = list(config.methods) or [MethodEntry(id=name) for name in usual]
    faults: list[ConfigError] = []
    rows: list[StudyRow] = []
    for entry in entries:
        try:
            if config.prompts and entry.id == "head":
                raise ConfigError(
                    "method 'head': the head of a language model is pretrained and stays as it is, so there is nothing"
                    " to train",
                    "leave it out; the model as it is has a row of its own",
                )
            rows.append(_row(entry, config.protocol, base))
            if task == "summarization":
                _refuse_silent(rows[-1], base)
        except ConfigError as error:
            faults.append(error)
    if faults:
        if len(faults) == 1:
            raise faults[0]
        hints = dict.fromkeys(fault.hint for fault in faults)
        raise ConfigError("\n".join(fault.message for fault in faults), "\n  ".join(hints))
    if config.kind == "compare":
        present = {row.id for row in rows}
        if config.protocol.full and "full" not in present:
            rows.append(_row(MethodEntry(id="full"), config.protocol, base))
        if not config.protocol.full:
            rows = [row for row in rows if row.id != "full"]
        if "head" not in present and not config.prompts:
            rows.append(_row(MethodEntry(id="head"), config.protocol, base))
        rows += [_bare(UNTRAINED, _untrained(config)), _bare(MAJORITY, _MAJORITIES[task])]
    for row in rows:
        if row.method is not None and not row.method.shares_base:
            row.method.check_base(config.model.quantization)
    return tuple(rows)


def _refuse_silent(row: StudyRow, base: Base) -> None:
    """Refuse a method with which nothing can be written.

    Raises:
        ConfigError: names those with which it can.
    """
    assert row.method is not None, "rows asked for are methods"
    reason = not_generating(row.method, row.method.sites(base))
    if reason is not None:
        able = [cls.name for cls in list_methods() if can_generate(cls)]
        raise ConfigError(f"method {row.id!r}: {reason}", f"these can write summaries: {', '.join(able)}")


def reference_row(rows: tuple[StudyRow, ...]) -> str | None:
    """The label methods are compared with: the first full fine-tuning, when there is one."""
    return next((row.label for row in rows if row.id == "full"), None)


def _row(entry: MethodEntry, protocol: ProtocolConfig, base: Base) -> StudyRow:
    settings = {name: value for name, value in entry.settings.items() if name not in ROW_SETTINGS}
    method = get_method(entry.id, settings)
    method.sites(base)
    fixed = entry.settings.get("lr", protocol.lr)
    if fixed is not None and (isinstance(fixed, bool) or not isinstance(fixed, int | float) or fixed <= 0):
        raise ConfigError(f"method {entry.row_label!r}: lr is {fixed!r}", "give a number above 0, such as lr=5e-4")
    if fixed is None and protocol.mode == "published":
        raise ConfigError(
            f"method {entry.row_label!r} has no learning rate, and protocol.mode=published tunes none",
            "set protocol.lr or the row's lr, or protocol.mode=fair",
        )
    lrs = (float(fixed),) if fixed is not None else method.lr_range.grid(max(1, protocol.tuning_trials))
    return StudyRow(
        id=entry.id,
        label=entry.label or _label(method, entry, settings),
        settings=settings,
        lrs=lrs,
        stream=str(entry.settings.get("stream", "")),
        method=method,
    )


def _label(method: Method, entry: MethodEntry, settings: Mapping[str, Any]) -> str:
    """The method's name, with what the user set about it."""
    if not settings and not entry.settings:
        return method.label
    return f"{method.label} {entry.row_label.removeprefix(entry.id).strip()}"


def _untrained(config: StudyConfig) -> str:
    """What the model as it is is called: prompted, it answers without a head of chance."""
    if not config.prompts:
        return "untrained model"
    return f"{config.prompt.shots}-shot" if config.prompt.shots else "zero-shot"


def _bare(id: str, label: str) -> StudyRow:
    return StudyRow(id=id, label=label, settings={}, lrs=(), stream="", method=None)
