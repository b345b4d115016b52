"""How much memory a study needs at its peak, by arithmetic on what the probe measured; and how a study is made to fit.

    peak = shared + own of the coordinator + sum over workers of (own + library + largest pack)
    pack = sum of kept over its lanes + copy for writing + scatter * (pass of training + pass of evaluation)

`shared` (libraries, the mapped base) exists once. The workers that matter are those with the largest packs of a stage.
A probe of a few seconds cannot see what gathers over hundreds of passes of ever other lengths: the products that the
library compiles and keeps, and gaps in a heap that gives nothing back between operations. `library` and `scatter` stand
for it; they are fixed, and were taken from one whole study of a small encoder (`python -m bench.check_estimates`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from remora.config.schema import EngineConfig
from remora.engine.driver import EVAL_TOKENS
from remora.errors import ResourceError
from remora.results.wording import size
from remora.study.context import StudyContext
from remora.study.packs import PlannedPack
from remora.study.probe import Probe, RowProbe
from remora.study.rows import StudyRow
from remora.study.stages import plan_stages

_SPARE = 0.05
"""Share of the free memory that is left alone."""
_GOOD_PASS = 400
"""Matrix products of so many rows run at the full rate, so passes are cut to this before workers are given up."""
_LIBRARY_BYTES = 145 * 10**6
_SCATTER = 2.0
_DEVIATIONS = 3.0
"""The largest of some thousand batches is about so many standard deviations longer than the mean."""


def peak_memory(context: StudyContext, rows: Sequence[StudyRow], probe: Probe) -> int:
    """Bytes of all processes of a study together, at most."""
    stages = plan_stages(context, rows)
    largest = 0
    for packs in stages.packs():
        needed = sorted((pack_memory(context, pack, probe) for pack in packs), reverse=True)
        largest = max(largest, sum(probe.idle.own + _LIBRARY_BYTES + extra for extra in needed[: stages.workers]))
    return probe.idle.shared + probe.idle.own + largest


def pack_memory(context: StudyContext, pack: PlannedPack, probe: Probe) -> int:
    """Bytes that training a pack adds to a process."""
    known = [probe.rows[trial.label] for trial in pack.trials if trial.label in probe.rows]
    lanes = sorted(known, key=lambda row: row.kept, reverse=True)[: pack.slots]
    evaluation = probe.eval_bytes * EVAL_TOKENS
    training = 0.0
    if lanes:  # else untrained baselines only
        batch, engine = context.config.protocol.batch_size, context.config.engine
        train = context.encoded("train")
        lengths = train.lengths + max(row.virtual for row in lanes) * train.num_texts
        tokens = largest_pass(lengths, len(lanes) * batch, engine.pass_tokens)
        training = max(row.bytes_per_token * tokens for row in lanes)
    kept = sum(row.kept for row in lanes) + max((_passing(row) for row in lanes), default=0)
    return kept + _written(context, pack) + math.ceil(_SCATTER * (training + evaluation))


def _written(context: StudyContext, pack: PlannedPack) -> int:
    """Bytes of the float32 copy of a half-precision base in which the weights of an adapter are while it writes."""
    writes = context.task.generates and any(trial.purpose != "tuning" for trial in pack.trials)
    return 4 * context.base.num_params if writes and context.base.dtype.itemsize < 4 else 0


def _passing(row: RowProbe) -> int:
    """Bytes that come and go and do not depend on tokens: copies of weights, or trained numbers handed over."""
    return max(row.copies, row.kept // 4)


def largest_pass(lengths: np.ndarray, sequences: int, tokens_per_pass: int) -> int:
    """Tokens of the largest pass that steps of so many sequences are cut into.

    Args:
        lengths: of the training texts, in tokens.
        sequences: of all lanes' batches.
        tokens_per_pass: at most, unless one sequence alone is longer.
    """
    expected = sequences * lengths.mean() + _DEVIATIONS * math.sqrt(sequences) * lengths.std()
    longest = int(lengths.max())
    return max(longest, min(tokens_per_pass, math.ceil(min(expected, sequences * longest))))


def fit_memory(
    context: StudyContext, rows: Sequence[StudyRow], probe: Probe, free: int
) -> tuple[EngineConfig, tuple[str, ...]]:
    """Make passes smaller, then give up workers, then make passes smaller still, until a study fits.

    A pure function of its arguments; the caller records the settings, and a resumed study keeps them.

    Args:
        context: data and base.
        rows: of the study.
        probe: what its parts need.
        free: bytes that are left to processes beside this one.

    Returns:
        The engine's settings, and the reductions in words.

    Raises:
        ResourceError: it does not fit with one worker and passes of one text.
    """
    before = context.config.engine
    stages = plan_stages(context, rows)
    workers, cores = stages.workers, stages.workers * stages.threads
    longest = int(context.encoded("train").lengths.max())
    held = probe.idle.own + probe.idle.shared
    needed = 0
    for engine in _smaller(before, workers, cores, longest):
        config = context.config.model_copy(update={"engine": engine})
        needed = peak_memory(replace(context, config=config), rows, probe) - held
        if needed <= free * (1 - _SPARE):
            return engine, _words(before, engine, workers)
    private = any(probe.rows[row.label].copies for row in rows if row.label in probe.rows)
    raise ResourceError(
        f"not enough memory: with one worker and passes of one text the study still needs about {size(needed)} more "
        f"(estimated), and {size(free)} are free",
        ("leave full fine-tuning out (--no-full), " if private else "")
        + "close other programs, take a smaller base model, or shorten the texts (model.max_length)",
    )


def _smaller(engine: EngineConfig, workers: int, cores: int, longest: int) -> Iterator[EngineConfig]:
    """Settings that need less and less memory, beginning with those given; what fewer workers leave, threads take."""
    yield engine
    tokens = engine.pass_tokens
    while tokens // 2 >= max(_GOOD_PASS, longest):
        tokens //= 2
        yield engine.model_copy(update={"tokens_per_pass": tokens})
    for fewer in range(workers - 1, 0, -1):
        threads = engine.threads or cores // fewer
        yield engine.model_copy(update={"tokens_per_pass": tokens, "workers": fewer, "threads": threads})
    while tokens > longest:
        tokens = max(tokens // 2, longest)
        threads = engine.threads or cores
        yield engine.model_copy(update={"tokens_per_pass": tokens, "workers": 1, "threads": threads})


def _words(before: EngineConfig, after: EngineConfig, workers: int) -> tuple[str, ...]:
    changes: Mapping[str, tuple[int, int]] = {
        "tokens per pass": (before.pass_tokens, after.pass_tokens),
        "workers": (workers, after.workers or workers),
    }
    return tuple(f"{name} from {old} to {new}" for name, (old, new) in changes.items() if new < old)
