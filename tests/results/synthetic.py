"""Builds a run directory as a study would leave it, without training: schema-true, deterministic, any shape wanted.

    build_run(tmp_path / "run")                      # 13 rows, 3 seeds, 6 classes
    build_run(..., label_names=("<script>", "ok"))   # labels as hostile as you like
    build_run(..., task="regression", metric="pearson", metrics=("pearson", "spearman"))

Outcomes come from a simple model: each test item has a difficulty, each row a skill, each seed a small effect.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import stats
from sklearn import metrics as sk

from remora.results.predictions import SplitPredictions, write_predictions
from remora.results.schema import (
    Costs,
    CurvePoint,
    DataInfo,
    DataNote,
    GradNorm,
    Lengths,
    Machine,
    MemoryBreakdown,
    ModelInfo,
    Pack,
    ParamCount,
    ProtocolInfo,
    RowCost,
    RowPlan,
    SplitInfo,
    Study,
    TrialResult,
)
from remora.results.store import COSTS_FILE, DATA_FILE, STUDY_FILE, trial_dir, trial_id, write_record, write_result

INTENTS = ("billing", "cancel", "delivery", "login", "refund", "technical problem")


@dataclass(frozen=True, kw_only=True)
class FakeRow:
    """One row of the fake study. `skill` sets its quality; `params` are adapter, head, base."""

    method: str
    label: str
    family: str
    skill: float
    params: tuple[int, int, int]
    lrs: tuple[float, ...] = (1e-4, 2e-4, 5e-4, 1e-3)
    step_seconds: float = 0.2
    peak_bytes: int = 420_000_000
    settings: dict[str, object] = field(default_factory=dict)
    diverged_seeds: tuple[int, ...] = ()
    note: str = ""


LORA_LRS = (1e-4, 3e-4, 1e-3, 3e-3)
HIGH_LRS = (1e-3, 3e-3, 1e-2, 3e-2)
HEAD = 2310
ROWS = (
    FakeRow(method="majority", label="majority", family="baseline", skill=-9, params=(0, 0, 0), lrs=()),
    FakeRow(method="untrained", label="untrained", family="baseline", skill=0.0, params=(0, HEAD, 0), lrs=()),
    FakeRow(
        method="head",
        label="head",
        family="baseline",
        skill=1.0,
        params=(0, HEAD, 0),
        lrs=HIGH_LRS,
        step_seconds=0.03,
        peak_bytes=180_000_000,
        note="base dropout off: features are computed once",
    ),
    FakeRow(
        method="full",
        label="full",
        family="full",
        skill=2.55,
        params=(0, HEAD, 22_713_216),
        lrs=(1e-5, 2e-5, 5e-5, 1e-4),
        step_seconds=0.41,
        peak_bytes=790_000_000,
    ),
    FakeRow(method="lora", label="lora", family="reparameterized", skill=2.5, params=(73_728, HEAD, 0), lrs=LORA_LRS),
    FakeRow(
        method="rslora", label="rslora", family="reparameterized", skill=2.42, params=(73_728, HEAD, 0), lrs=LORA_LRS
    ),
    FakeRow(
        method="lora-plus",
        label="lora-plus",
        family="reparameterized",
        skill=2.48,
        params=(73_728, HEAD, 0),
        lrs=LORA_LRS,
    ),
    FakeRow(
        method="lora-fa",
        label="lora-fa",
        family="reparameterized",
        skill=2.1,
        params=(36_864, HEAD, 0),
        lrs=LORA_LRS,
        step_seconds=0.18,
        peak_bytes=360_000_000,
    ),
    FakeRow(
        method="dora",
        label="dora",
        family="reparameterized",
        skill=2.53,
        params=(78_336, HEAD, 0),
        lrs=LORA_LRS,
        step_seconds=0.29,
        peak_bytes=470_000_000,
    ),
    FakeRow(
        method="vera",
        label="vera",
        family="reparameterized",
        skill=1.9,
        params=(6_144, HEAD, 0),
        lrs=HIGH_LRS,
        step_seconds=0.26,
    ),
    FakeRow(method="ia3", label="ia3", family="additive", skill=1.7, params=(13_824, HEAD, 0), lrs=HIGH_LRS),
    FakeRow(method="bitfit", label="bitfit", family="selective", skill=2.2, params=(21_888, HEAD, 0), lrs=HIGH_LRS),
    FakeRow(
        method="prompt-tuning",
        label="prompt-tuning",
        family="additive",
        skill=1.2,
        params=(7_680, HEAD, 0),
        lrs=HIGH_LRS,
        step_seconds=0.31,
        peak_bytes=510_000_000,
        diverged_seeds=(1,),
        settings={"num_tokens": 20},
    ),
)


def build_run(
    run_dir: Path,
    *,
    rows: tuple[FakeRow, ...] = ROWS,
    num_seeds: int = 3,
    num_test: int = 300,
    label_names: tuple[str, ...] = INTENTS,
    task: str = "classification",
    metric: str = "accuracy",
    metrics: tuple[str, ...] = ("accuracy", "macro_f1"),
    epochs: int = 3,
    margin: float = 1.0,
    prefer: str = "quality",
    kind: str = "compare",
    name: str = "helpdesk",
    costs: bool = True,
    rng_seed: int = 0,
) -> Path:
    """Write a run directory and return its path."""
    rng = np.random.Generator(np.random.Philox(rng_seed))
    fake = _World(rng=rng, names=label_names if task == "classification" else (), num_test=num_test, metrics=metrics)
    seeds = tuple(range(num_seeds))
    for row in rows:
        for tried, lr in enumerate(row.lrs):
            _write_tuning(run_dir, row, lr, row.skill - 0.35 * abs(tried - 2), fake, epochs)
        for seed in seeds:
            _write_final(run_dir, row, seed, fake, epochs)
    write_record(run_dir / DATA_FILE, fake.data_info(name, task, metric, metrics))
    if costs:
        write_record(run_dir / COSTS_FILE, _costs(rows))
    reference = next((row.label for row in rows if row.method == "full"), None)
    write_record(
        run_dir / STUDY_FILE,
        Study(
            name=name,
            kind=kind,
            fingerprint="3f9ac1d27b00",
            command=f"remora compare --model minilm --data {name} --seeds {num_seeds}",
            created="2025-01-02T03:04:05Z",
            model=ModelInfo(
                name="minilm",
                architecture="bert",
                params=22_713_216,
                sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                dtype="bfloat16",
                max_length=256,
            ),
            protocol=ProtocolInfo(
                epochs=epochs,
                batch_size=16,
                seeds=seeds,
                tuning_trials=4,
                tuning_seed=1000,
                margin=margin,
                prefer=prefer,
                reference=reference,
            ),
            rows=tuple(
                RowPlan(
                    method=row.method,
                    label=row.label,
                    family=row.family,
                    settings=row.settings,
                    lrs=row.lrs,
                    note=row.note,
                    changes_base=row.method == "full",
                )
                for row in rows
            ),
            versions={"python": "3.11.9", "remora": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        ),
    )
    return run_dir


@dataclass(frozen=True, kw_only=True)
class _World:
    """The test and validation items, and how a row of some skill does on them."""

    rng: np.random.Generator
    names: tuple[str, ...]
    num_test: int
    metrics: tuple[str, ...]
    cache: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def items(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Targets (class index or float) and per-item noise of a split, drawn once."""
        if split not in self.cache:
            num = self.num_test if split == "test" else 100
            if self.names:
                weights = np.linspace(2, 1, len(self.names))
                targets = self.rng.choice(len(self.names), size=num, p=weights / weights.sum())
                self.cache[split] = targets, self.rng.normal(0, 1.0, (num, len(self.names)))
            else:
                targets = self.rng.uniform(0, 5, num).round(2)
                self.cache[split] = targets, self.rng.normal(0, 1.0, (num, 1))
        return self.cache[split]

    def predict(self, split: str, skill: float) -> SplitPredictions:
        """Predictions of a row with this skill; a skill below -5 always gives the same answer."""
        targets, shared = self.items(split)
        own = self.rng.normal(0, 0.25, shared.shape)
        if self.names:
            logits = shared + own
            logits[np.arange(len(targets)), targets] += 1.3 * skill
            if skill < -5:
                logits = np.zeros_like(logits)
                logits[:, 0] = 1.0
            return from_logits([self.names[int(i)] for i in targets], logits, self.names)
        share = 1 / (1 + np.exp(1.6 - skill))
        logits = share * targets[:, None] + (1 - share) * (2.5 + 2 * shared) + 0.3 * own
        if skill < -5:
            logits = np.full_like(logits, targets.mean())
        return from_logits([float(t) for t in targets], logits, ())

    def score(self, part: SplitPredictions) -> dict[str, float]:
        """The study's metrics."""
        with np.errstate(invalid="ignore"):
            return {name: _metric(name, part) for name in self.metrics}

    def data_info(self, name: str, task: str, metric: str, metrics: tuple[str, ...]) -> DataInfo:
        """The data.json of this world."""
        splits: dict[str, SplitInfo] = {}
        for split, num in (("train", 600), ("validation", 100), ("test", self.num_test)):
            counts: dict[str, int] = {}
            if split == "train":
                counts = {label: 600 // len(self.names) for label in self.names}
            elif self.names:
                values, found = np.unique(self.items(split)[0], return_counts=True)
                counts = {self.names[int(v)]: int(n) for v, n in zip(values, found, strict=True)}
            digest = hashlib.blake2b(f"{name}/{split}".encode(), digest_size=16).hexdigest()
            splits[split] = SplitInfo(rows=num, hash=digest, source=f"{split}.csv", label_counts=counts)
        return DataInfo(
            name=name,
            task=task,
            hash="9a0c44e2b7f15d3388aa",
            text_columns=("text",),
            label_column="label",
            label_names=self.names,
            metric=metric,
            metrics=metrics,
            splits=splits,
            notes=(
                DataNote(kind="duplicates", message="7 rows of train repeat the text of another row", count=7),
                DataNote(kind="overlap-test", message=f"2 of {self.num_test} test texts are also in train", count=2),
            ),
            lengths=Lengths(mean=24.3, p50=22, p95=51, max=301, truncated=3, max_length=256),
        )


def _metric(name: str, part: SplitPredictions) -> float:
    targets, guesses = list(part.targets), list(part.predictions)
    if name == "accuracy":
        return float(sk.accuracy_score(targets, guesses))
    if name == "macro_f1":
        return float(sk.f1_score(targets, guesses, average="macro", zero_division=0))
    if name == "matthews":
        return float(sk.matthews_corrcoef(targets, guesses))
    if np.ptp(guesses) == 0:
        return 0.0
    if name == "pearson":
        return float(stats.pearsonr(targets, guesses).statistic)
    assert name == "spearman"
    return float(stats.spearmanr(targets, guesses).statistic)


def _curve(validation: dict[str, float], loss: float, epochs: int) -> tuple[CurvePoint, ...]:
    return tuple(
        CurvePoint(
            step=38 * epoch,
            epoch=float(epoch),
            train_loss=round(loss * (0.35 + 1.3 / epoch), 5),
            validation_loss=round(loss * (0.6 + 0.9 / epoch), 5),
            validation={name: value * (1 - 0.18 / epoch + 0.18 / epochs) for name, value in validation.items()},
        )
        for epoch in range(1, epochs + 1)
    )


def _write_tuning(run_dir: Path, row: FakeRow, lr: float, skill: float, fake: _World, epochs: int) -> None:
    settings = {"lr": lr, **row.settings}
    trial = trial_id(row.label, 1000, {"purpose": "tuning", "method": row.method, **settings})
    validation = fake.score(fake.predict("validation", skill))
    loss = float(np.exp(-max(skill, 0) / 2))
    write_result(
        run_dir,
        TrialResult(
            trial=trial,
            purpose="tuning",
            method=row.method,
            label=row.label,
            family=row.family,
            hyperparameters=settings,
            seed=1000,
            status="done",
            metrics={"validation": validation},
            losses={"train": loss, "validation": loss * 1.1},
            curve=_curve(validation, loss, epochs),
            params=ParamCount(adapter=row.params[0], head=row.params[1], base_trained=row.params[2]),
            steps=38 * epochs,
            examples=600 * epochs,
            wall_seconds=11.0,
            pack=Pack(id="pack-0", lanes=8),
        ),
    )


def _write_final(run_dir: Path, row: FakeRow, seed: int, fake: _World, epochs: int) -> None:
    baseline = row.method in ("majority", "untrained")
    if row.method == "majority" and seed > 0:
        return
    settings = {**({"lr": row.lrs[min(2, len(row.lrs) - 1)]} if row.lrs else {}), **row.settings}
    purpose = "baseline" if baseline else "final"
    trial = trial_id(row.label, seed, {"purpose": purpose, "method": row.method, "seed": seed, **settings})
    diverged = seed in row.diverged_seeds
    skill = row.skill if row.skill < -5 else row.skill + float(fake.rng.normal(0, 0.03))
    parts = {split: fake.predict(split, skill) for split in ("validation", "test")}
    metrics = {} if diverged else {split: fake.score(part) for split, part in parts.items()}
    loss = float(np.exp(-max(skill, 0) / 2))
    adapter_bytes = None
    if not baseline and not diverged and row.method != "full":
        folder = trial_dir(run_dir, trial) / "adapter"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}\n")
        adapter_bytes = 4 * (row.params[0] + row.params[1]) + 2048
    if not diverged:
        write_predictions(run_dir, trial, parts)
    write_result(
        run_dir,
        TrialResult(
            trial=trial,
            purpose=purpose,
            method=row.method,
            label=row.label,
            family=row.family,
            hyperparameters=settings,
            seed=seed,
            status="diverged" if diverged else "done",
            error="the loss was not finite at step 17" if diverged else None,
            metrics=metrics,
            losses={} if baseline or diverged else {"train": loss * 0.8, "validation": loss, "test": loss * 1.02},
            curve=() if baseline or diverged else _curve(metrics["validation"], loss, epochs),
            params=ParamCount(adapter=row.params[0], head=row.params[1], base_trained=row.params[2]),
            steps=0 if baseline else 38 * epochs,
            examples=0 if baseline else 600 * epochs,
            undertrained=row.method == "prompt-tuning",
            grad_norm=None if baseline else GradNorm(mean=1.2, min=0.1, max=None if diverged else 4.5),
            truncated={"train": 2, "validation": 0, "test": 1},
            wall_seconds=0.5 if baseline else 12.3,
            pack=None if baseline else Pack(id="pack-1", lanes=8),
            adapter_bytes=adapter_bytes,
        ),
    )


def _costs(rows: tuple[FakeRow, ...]) -> Costs:
    found: dict[str, RowCost] = {}
    for row in rows:
        if row.method in ("majority", "untrained"):
            continue
        base, adapter = 45_426_432, 4 * sum(row.params)
        known = base + adapter + adapter + 2 * adapter
        found[row.label] = RowCost(
            step_seconds=row.step_seconds,
            examples_per_second=16 / row.step_seconds,
            peak_bytes=row.peak_bytes,
            breakdown=MemoryBreakdown(
                base=base,
                adapter=adapter,
                gradients=adapter,
                optimizer=2 * adapter,
                activations_and_rest=row.peak_bytes - known,
            ),
        )
    machine = Machine(cpu="x86-64 with AMX", cores=2, memory_gb=15.6, torch="2.13.0", dtype="bfloat16")
    return Costs(machine=machine, rows=found, study_seconds=412.7)


def from_logits(
    targets: Sequence[str] | Sequence[float], logits_NC: np.ndarray, names: Sequence[str]
) -> SplitPredictions:
    """Decode logits: the label with the largest score, the first one on a tie; the score itself for regression.

    Args:
        targets: N true labels.
        logits_NC: the scores.
        names: C label names; empty for regression.
    """
    scores_NC = np.asarray(logits_NC, dtype=np.float32)
    if names:
        labels = tuple(names[int(index)] for index in scores_NC.argmax(axis=1))
        return SplitPredictions(targets=tuple(str(t) for t in targets), predictions=labels, scores=scores_NC)
    values = tuple(float(value) for value in scores_NC[:, 0])
    return SplitPredictions(targets=tuple(float(t) for t in targets), predictions=values, scores=scores_NC)
