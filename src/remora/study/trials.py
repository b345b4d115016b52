"""Trials of a study: what is trained and under which id, a hash of all that determines the trial."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from remora.config.schema import ProtocolConfig
from remora.engine.trial import TrialSpec
from remora.models.base import Quantization
from remora.results.schema import Purpose
from remora.results.store import trial_id
from remora.study.context import StudyContext
from remora.study.machine import dtype_name
from remora.study.rows import UNTRAINED, StudyRow

TUNING_SEED = 1_000_003
"""The seed of all tuning trials; never that of a final trial."""
_ENGINE = 1
"""Raised whenever the engine gives other numbers for the same trial."""


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """One trial before it runs.

    Args:
        spec: for the engine.
        purpose: tuning, final or baseline.
        label: of its row.
        family: of its method.
        hyperparameters: learning rate and every setting.
        quantization: how the base is held that it runs on.
        rivals: ids of the row's tuning trials, this one among them, where they are compared on the way and the worse
            half stops; they share a pack. Empty otherwise.
    """

    spec: TrialSpec
    purpose: Purpose
    label: str
    family: str
    hyperparameters: Mapping[str, Any]
    quantization: Quantization = "none"
    rivals: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for a worker."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "PlannedTrial":
        """The inverse of `to_json`."""
        given = dict(values)
        spec = dict(given.pop("spec"))
        spec["splits"] = tuple(spec["splits"])
        return PlannedTrial(spec=TrialSpec(**spec), rivals=tuple(given.pop("rivals")), **given)


class TrialMaker:
    """Makes the trials of one study.

    Args:
        context: data and base.
    """

    def __init__(self, context: StudyContext) -> None:
        base = context.base
        self._context = context
        self._protocol: ProtocolConfig = context.config.protocol
        self._fixed: dict[str, Any] = {
            "engine": _ENGINE,
            "data": context.dataset.hash,
            "metrics": list(context.dataset.metrics),
            "model": base.sha256,
            "dtype": dtype_name(base.dtype),
            "max_length": context.max_length,
        }
        if context.prompt is not None:
            self._fixed["prompt"] = context.prompt.fingerprint
        if context.task.generates:
            self._fixed["generation"] = context.config.generation.model_dump()
        if context.config.engine.device == "cuda":
            self._fixed["device"] = "cuda"  # its own kernels and sums; left out on a CPU, whose trials keep their names

    def tuning(self, row: StudyRow) -> tuple[PlannedTrial, ...]:
        """One trial per learning rate, scored on validation only; none where there is nothing to choose."""
        if row.method is None or len(row.lrs) < 2:
            return ()
        stop = self._protocol.stop
        # What becomes of a trial that may be stopped depends on its rivals, so they are part of its id.
        more = {} if stop == "none" else {"stop": stop, "lrs": row.lrs}
        trials = tuple(
            self._trial(row, "tuning", lr=lr, seed=TUNING_SEED, curve=False, splits=("validation",), more=more)
            for lr in row.lrs
        )
        if stop == "none":
            return trials
        rivals = tuple(trial.spec.id for trial in trials)
        return tuple(replace(trial, rivals=rivals) for trial in trials)

    def final(self, row: StudyRow, lr: float) -> tuple[PlannedTrial, ...]:
        """One trial per seed."""
        return tuple(
            self._trial(row, "final", lr=lr, seed=seed, curve=True, splits=("validation", "test"))
            for seed in range(self._protocol.seeds)
        )

    def untrained(self, row: StudyRow) -> tuple[PlannedTrial, ...]:
        """The model before any training, with a fresh head per seed; once where no head is drawn."""
        assert row.id == UNTRAINED
        splits = ("validation", "test")
        seeds = self._protocol.seeds if self._context.prompt is None else 1
        return tuple(
            self._trial(row, "baseline", lr=0.0, seed=seed, curve=False, splits=splits, max_steps=0)
            for seed in range(seeds)
        )

    def _trial(
        self,
        row: StudyRow,
        purpose: Purpose,
        *,
        lr: float,
        seed: int,
        curve: bool,
        splits: tuple[str, ...],
        max_steps: int | None = None,
        more: Mapping[str, object] = MappingProxyType({}),
    ) -> PlannedTrial:
        protocol = self._protocol
        spec = TrialSpec(
            id="",
            method=row.id if row.method is not None else "head",
            settings=row.full_settings(),
            lr=lr,
            seed=seed,
            stream=row.stream,
            epochs=protocol.epochs,
            max_steps=max_steps,
            batch_size=protocol.batch_size,
            weight_decay=protocol.weight_decay,
            clip=protocol.clip,
            schedule=protocol.schedule,
            warmup=protocol.warmup,
            base_dropout=protocol.base_dropout,
            select=protocol.select,
            curve=curve,
            splits=splits,
        )
        determinants = {**self._fixed, "purpose": purpose, "label": row.label, "spec": asdict(spec), **more}
        quantization = self._context.quantization_for(row.method)
        if quantization != "none":  # on a dense base trials keep the names they had before there was this
            determinants["quantization"] = quantization
        hyperparameters = {"lr": lr, **row.full_settings()} if row.method is not None else {}
        return PlannedTrial(
            spec=replace(spec, id=trial_id(row.label, seed, determinants)),
            purpose=purpose,
            label=row.label,
            family=row.method.family if row.method is not None else "baseline",
            hyperparameters=hyperparameters,
            quantization=quantization,
        )
