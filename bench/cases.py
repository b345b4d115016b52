"""The benchmark's cases: what is trained, on what text, for how many steps, and in which arrangements of the peer."""

from dataclasses import dataclass
from itertools import product
from typing import Literal

from bench.job import Trial

LORA = {"rank": 8, "alpha": 16, "dropout": 0.1}
NUM_TRAIN = {"sst2": 3000, "mrpc": 3000, "imdb": 1000, "imdb-prompts": 1000}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the benchmark.

    Args:
        name: how the command line calls it.
        data: data set.
        trials: what Remora trains; the peer trains the same, one after the other in each process.
        max_steps: optimizer steps of each trial.
        warmup_steps: first steps that are not timed, on both sides. With none, whole trainings are timed and the peer
            runs all trials, not one per process, since they differ in cost.
        side_by_side: a sweep: the peer may also run one one-thread process per core, Remora one worker per core.
        base_dropout: whether the base's own dropout is active, as in Trainer (LLaMA types have none).
        model: alias of the base.
    """

    name: str
    data: str
    trials: tuple[Trial, ...]
    model: str = "minilm"
    max_steps: int = 60
    warmup_steps: int = 10
    side_by_side: bool = False
    base_dropout: bool = True

    @property
    def num_examples(self) -> int:
        """Examples one trial trains inside the timed region, at batch 16."""
        return 16 * (self.max_steps - self.warmup_steps)

    @property
    def what(self) -> str:
        """What is trained, in words."""
        methods = list(dict.fromkeys(trial.method for trial in self.trials))
        if len(methods) > 1:
            return f"{len(methods)} methods x {len(self.trials) // len(methods)} seeds"
        where = " on query and value" if methods[0] in ("lora", "dora") else ""
        return f"{len(self.trials)} trial{'s' * (len(self.trials) > 1)} of {methods[0]}{where}"


def lora_trials(num_trials: int) -> tuple[Trial, ...]:
    """LoRA r 8 on query and value at learning rates from 1e-4 up, four to a factor of ten."""
    return tuple(
        Trial(method="lora", lr=round(1e-4 * 10 ** (i / 4), 6), seed=i, settings=dict(LORA)) for i in range(num_trials)
    )


def grid_trials() -> tuple[Trial, ...]:
    """16 LoRA trials on query and value: ranks 4, 8, 12, 16 (alpha twice the rank) at four learning rates each."""
    return tuple(
        Trial(method="lora", lr=lr, seed=i, settings={"rank": rank, "alpha": 2 * rank, "dropout": 0.1})
        for i, (rank, lr) in enumerate(product((4, 8, 12, 16), (2e-4, 5e-4, 1e-3, 2e-3)))
    )


SETTINGS: dict[str, dict[str, float]] = {
    "full": {},
    "head": {},
    "lora": LORA,
    "rslora": LORA,
    "lora-plus": LORA,
    "lora-fa": LORA,
    "dora": LORA,
    "vera": {"rank": 256},
    "ia3": {},
    "bitfit": {},
    "prompt-tuning": {"num_virtual_tokens": 8, "head_ratio": 1.0},
}


def comparison_trials() -> tuple[Trial, ...]:
    """Eleven methods with three seeds each."""
    return tuple(
        Trial(method=method, lr=1e-4 if method == "full" else 1e-3, seed=seed, settings=dict(settings))
        for seed in range(3)
        for method, settings in SETTINGS.items()
    )


def one_trial(method: str) -> tuple[Trial, ...]:
    return (Trial(method=method, lr=1e-3, settings=dict(SETTINGS[method])),)


CASES = (
    Case(name="single", data="sst2", trials=lora_trials(1)),
    Case(name="single-no-dropout", data="sst2", trials=lora_trials(1), base_dropout=False),
    Case(name="single-mrpc", data="mrpc", trials=lora_trials(1)),
    Case(name="single-imdb", data="imdb", trials=lora_trials(1), max_steps=24, warmup_steps=4),
    Case(name="dora", data="sst2", trials=one_trial("dora")),
    Case(name="head", data="sst2", trials=one_trial("head")),
    *(
        Case(name=name, data=data, trials=comparison_trials(), max_steps=steps, warmup_steps=0, side_by_side=True)
        for name, data, steps in (
            ("comparison", "sst2", 24),
            ("comparison-mrpc", "mrpc", 24),
            ("comparison-imdb", "imdb", 8),
        )
    ),
    Case(name="smollm2", data="imdb-prompts", trials=lora_trials(1), model="smollm2", max_steps=8, warmup_steps=2),
    Case(name="sweep8", data="sst2", trials=lora_trials(8), side_by_side=True),
    Case(name="sweep16", data="sst2", trials=grid_trials(), side_by_side=True),
    Case(name="sweep16-mrpc", data="mrpc", trials=grid_trials(), side_by_side=True),
    Case(name="sweep16-imdb", data="imdb", trials=grid_trials(), side_by_side=True, max_steps=24, warmup_steps=4),
)
DEFAULT_CASES = ("single", "sweep8", "sweep16")

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """One way of running the peer.

    Args:
        name: row label.
        precision: float32, or bfloat16 autocast.
        side_by_side: one one-thread process per core instead of one process with all threads.
        published: padded to the full length, as the published studies ran it.
    """

    name: str
    precision: Precision
    side_by_side: bool = False
    published: bool = False


DEFAULT_PEER = Arrangement(name="one process, fp32", precision="fp32")
PUBLISHED_PEER = Arrangement(name="as published: one process, fp32, padded", precision="fp32", published=True)


def arrangements(case: Case) -> tuple[Arrangement, ...]:
    """All arrangements of the peer in a case."""
    found = [DEFAULT_PEER, Arrangement(name="one process, bf16 autocast", precision="bf16"), PUBLISHED_PEER]
    if case.side_by_side:
        found += [
            Arrangement(name="one-thread processes, fp32", precision="fp32", side_by_side=True),
            Arrangement(name="one-thread processes, bf16 autocast", precision="bf16", side_by_side=True),
        ]
    return tuple(found)
