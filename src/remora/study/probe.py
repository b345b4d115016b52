"""A few real passes before a study: what a token costs in training and evaluation, in time and in memory.

One thread takes steps of every row on the study's own training texts, with the engine that the workers use. Time is
that of a step after the first, in seconds of the thread; what the wall's clock makes of them when all workers compute
beside whatever else the machine does now is measured apart (`machine.crowding`). Memory is the growth of the resident
set over a step, less what a trial keeps by arithmetic (`kept_bytes`), so the rest grows with the tokens of a pass.
Large bases get smaller passes, and rows for which no time is left are taken to cost what the measured ones do.

Nothing is changed: trials start from their own seeds, no global random state is drawn, the base stays as it is.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from remora.engine.driver import EVAL_TOKENS, Driver
from remora.engine.lanes import Lane
from remora.engine.loop import evaluate, run_pack
from remora.engine.trial import Examples, NoEvents, TrialData, TrialSpec
from remora.study.context import StudyContext
from remora.study.drivers import Drivers
from remora.study.machine import compute_device, crowding, give_memory_back, memory_kept
from remora.study.packs import packing
from remora.study.resident import Resident, held_bytes, peak_bytes, reset_peak, resident
from remora.study.rows import StudyRow

_SECONDS = 5.0
"""No row is begun after so long."""
_LARGE, _HALF, _EVALUATION = 0.6, 0.25, 0.5
"""Seconds that a large pass, a half one and one of evaluation may take; longer ones are cut in tokens."""
_WARM_UP_TOKENS = 128
_MASTER_COPIES = 4
"""Values, gradients and AdamW's two moments, each float32."""


@dataclass(frozen=True, kw_only=True)
class RowProbe:
    """What one row costs.

    Args:
        seconds: per token of a training step, one thread.
        kept: bytes that one trial keeps between steps.
        copies: bytes of a pass that do not depend on its tokens: base weights in training, in the compute type, and
            the gradient of the largest of them before it is added up.
        bytes_per_token: that a pass needs beside these.
        virtual: tokens put before every text of an example.
        reads_features: whether it trains on the base's output, computed once per split.
        measured: False where the other rows stand in for it.
    """

    seconds: float
    kept: int
    copies: int
    bytes_per_token: float
    virtual: int = 0
    reads_features: bool = False
    measured: bool = True


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was measured.

    Args:
        rows: by label, all that train.
        eval_seconds: per token of evaluation, one thread.
        eval_bytes: growth over an evaluation pass, per token.
        idle: a process that has opened the study and trains nothing.
        opening: seconds in which data and base were opened.
        crowding: wall time over a lone thread's own time, by the number of threads computing at once.
        seconds: that the probe itself took.
    """

    rows: Mapping[str, RowProbe]
    eval_seconds: float
    eval_bytes: float
    idle: Resident
    opening: float
    crowding: Mapping[int, float]
    seconds: float


def kept_bytes(trained: int, frozen: int) -> int:
    """Bytes a trial keeps: float32 values, gradients and two moments of what it trains, and its own frozen numbers."""
    return 4 * (_MASTER_COPIES * trained + frozen)


def run_probe(context: StudyContext, rows: Sequence[StudyRow], *, workers: int, opening: float) -> Probe:
    """Measure the rows of a study.

    Args:
        context: data and base.
        rows: of the study.
        workers: most threads that will compute at once.
        opening: seconds in which the context was opened.
    """
    start = time.perf_counter()
    trained = [row for row in rows if row.method is not None]
    trained.sort(key=lambda row: row.method is not None and not row.method.sites(context.base))  # adapters first
    context.lengths()  # tokenizes every split, as workers do
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with memory_kept(), Drivers(context, compute_device(context.config.engine)) as drivers:
            bench = _Bench(context, drivers)
            for row in trained:
                drivers.on(context.quantization_for(row.method))  # reads every weight, so a mapped base is resident
            if trained:
                bench.warm_up(trained[0])
            give_memory_back()
            idle = resident()
            found = _measure(bench, trained, start + _SECONDS)
            eval_seconds, eval_bytes = bench.evaluation(trained[0]) if trained else (0.0, 0.0)
    finally:
        torch.set_num_threads(threads)
    return Probe(
        rows=found,
        eval_seconds=eval_seconds,
        eval_bytes=eval_bytes,
        idle=idle,
        opening=opening,
        crowding={count: crowding(context.base.dtype, count) for count in {1, workers}},
        seconds=time.perf_counter() - start,
    )


def _measure(bench: "_Bench", rows: Sequence[StudyRow], deadline: float) -> dict[str, RowProbe]:
    """Rows by label: the first one, then full fine-tuning and heads, then the rest while there is time."""
    facts = {row.label: bench.facts(row) for row in rows}

    def rank(row: StudyRow) -> int:
        return 0 if row is rows[0] else 1 if facts[row.label].reads_features or facts[row.label].copies else 2

    found: dict[str, RowProbe] = {}
    for row in sorted(rows, key=rank):
        known = facts[row.label]
        if found and time.perf_counter() > deadline and not known.reads_features:
            found[row.label] = _stand_in(known, list(found.values()))
        else:
            found[row.label] = bench.measure(row, known, first=row is rows[0])
    return found


def _stand_in(facts: RowProbe, found: Sequence[RowProbe]) -> RowProbe:
    """A row that there was no time for: it keeps what it keeps, and else is like the others.

    Where the base's own weights are trained too, a token takes 6 in place of 4 operations per weight.
    """
    alike = [known for known in found if known.copies == 0 and not known.reads_features] or found
    return replace(
        facts,
        seconds=statistics.mean(known.seconds for known in alike) * (1.5 if facts.copies else 1.0),
        bytes_per_token=max(known.bytes_per_token for known in alike),
    )


class _Clock(NoEvents):
    """When the first lane's steps ended, and how much memory was held at most until then."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._name = name
        self._device = device
        self.times: list[float] = []
        self.peak = 0

    def step(self, spec: TrialSpec, step: int, num_steps: int, loss: float) -> None:
        if spec.id == self._name:
            self.times.append(_seconds(self._device))
            self.peak = peak_bytes(self._device)


def _seconds(device: torch.device) -> float:
    """A thread's own time where it computes itself, so that other programs do not count; else that of the wall."""
    return time.thread_time() if device.type == "cpu" else time.perf_counter()


class _Bench:
    """Runs passes of a study's rows.

    Args:
        context: data and base.
        drivers: of its bases.
    """

    def __init__(self, context: StudyContext, drivers: Drivers) -> None:
        self._context = context
        self._drivers = drivers
        self._device = drivers.on(context.base.quantization).device
        self._data = context.trial_data()
        self._mean = float(context.encoded("train").lengths.mean())
        self._rate = 0.0

    def warm_up(self, row: StudyRow) -> None:
        """Let everything that is built, loaded or touched at first use be so, and find a first rate."""
        self._rate, _ = self._train(row, 1, _WARM_UP_TOKENS, steps=2)

    def facts(self, row: StudyRow) -> RowProbe:
        """What is known of a row without training it."""
        assert row.method is not None
        few = self._few(row, 1, most=1)
        lane = Lane(self._spec(row, 0, batch_size=1, steps=0), self._driver(row), self._having(few))
        frozen = [*lane.adapter.shared.values()]
        frozen += [value for state in lane.adapter.states.values() for value in state.frozen.values()]
        numbers = lane.num_params
        size = self._context.base.dtype.itemsize
        largest = max((value.numel() for value in lane.base_params.values()), default=0)
        return RowProbe(
            seconds=0.0,
            kept=kept_bytes(sum(numbers.values()), sum(value.numel() for value in frozen)),
            copies=numbers["base_trained"] * size + largest * (size + 4),
            bytes_per_token=0.0,
            virtual=lane.room,
            reads_features=lane.uses_features,
            measured=False,
        )

    def measure(self, row: StudyRow, facts: RowProbe, *, first: bool) -> RowProbe:
        """Steps of one row: passes as large as planned for the first and for private weights, else half as large."""
        config = self._context.config
        large = first or facts.copies > 0
        planned = config.engine.pass_tokens // (1 if large else 2)
        tokens = min(planned, int((_LARGE if large else _HALF) / self._rate))
        slots = 1 if facts.copies else packing(config.engine, config.protocol.batch_size, self._mean).slots
        lanes = max(1, min(slots, int(tokens / self._mean)))
        device = self._device
        give_memory_back()
        before = held_bytes(device)
        reset_peak(device)
        known = before + lanes * facts.kept + facts.copies
        seconds, bytes_per_token = self._train(row, lanes, tokens, steps=3 if large else 2, known=known)
        return replace(facts, seconds=seconds, bytes_per_token=bytes_per_token, measured=True)

    def evaluation(self, row: StudyRow) -> tuple[float, float]:
        """Seconds and growth of memory of one evaluation pass, per token."""
        few = self._few(row, min(EVAL_TOKENS, int(_EVALUATION / self._rate)), most=EVAL_TOKENS)
        data = self._having(few)
        driver, device = self._driver(row), self._device
        lane = Lane(self._spec(row, 0, batch_size=1, steps=0), driver, data)
        give_memory_back()
        before = held_bytes(device)
        reset_peak(device)
        start = _seconds(device)
        evaluate(driver, data, lane, "validation")
        seconds = _seconds(device) - start
        tokens = _tokens(few, lane.room)
        return seconds / tokens, max(0, peak_bytes(device) - before) / tokens

    def _train(self, row: StudyRow, lanes: int, tokens: int, *, steps: int, known: int = 0) -> tuple[float, float]:
        """Seconds of a step after the first, and growth beyond what is known, both per token of a pass."""
        few = self._few(row, tokens // lanes, most=self._context.config.protocol.batch_size)
        specs = [self._spec(row, number, batch_size=len(few), steps=steps) for number in range(lanes)]
        clock = _Clock(specs[0].id, self._device)
        for _ in run_pack(
            self._driver(row), self._having(few), specs, slots=lanes, tokens_per_pass=2 * EVAL_TOKENS, events=clock
        ):
            pass
        assert row.method is not None
        passed = lanes * _tokens(few, row.method.num_virtual_tokens)
        each = [after - before for before, after in zip(clock.times[:-1], clock.times[1:], strict=True)]
        return statistics.median(each) / passed, max(0, clock.peak - known) / passed

    def _driver(self, row: StudyRow) -> Driver:
        return self._drivers.on(self._context.quantization_for(row.method))

    def _spec(self, row: StudyRow, number: int, *, batch_size: int, steps: int) -> TrialSpec:
        protocol = self._context.config.protocol
        return TrialSpec(
            id=f"probe-{number}",
            method=row.id,
            settings=row.full_settings(),
            lr=row.lrs[0],
            seed=number,
            epochs=max(1, steps),
            max_steps=steps,
            batch_size=batch_size,
            weight_decay=protocol.weight_decay,
            clip=protocol.clip,
            base_dropout=protocol.base_dropout,
            curve=False,
            splits=(),
        )

    def _few(self, row: StudyRow, tokens: int, *, most: int) -> Examples:
        """Training examples of all lengths in equal steps, at most so many, that fill so many tokens; at least one."""
        assert row.method is not None
        room = row.method.num_virtual_tokens
        whole = self._data.split("train", room)
        lengths = whole.lengths + room * whole.num_sequences
        number = max(1, min(most, len(whole), int(tokens / lengths.mean())))
        places = ((np.arange(number) + 0.5) * len(whole) / number).astype(int)
        chosen = np.argsort(lengths, kind="stable")[places]
        return whole.subset(chosen)

    def _having(self, few: Examples) -> TrialData:
        return replace(self._data, split=lambda name, room: few)


def _tokens(examples: Examples, room: int) -> int:
    return int((examples.lengths + room * examples.num_sequences).sum())
