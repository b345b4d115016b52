"""What a study will cost before it runs: trials, time, memory; and what a time budget leaves of it.

Time is operations over a measured rate: 2 N per token forward and 2 N backward through the frozen base (4 N when its
own weights are trained), N the parameters outside the embeddings, at the share of the machine's matrix-product rate
that whole steps reach. It is an estimate to decide by, not a measurement; the report has the measured costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from remora.config.schema import ProtocolConfig
from remora.study.context import StudyContext
from remora.study.machine import available_cores, product_rate
from remora.study.packs import lanes_per_pack
from remora.study.rows import StudyRow

_EFFICIENCY = 0.35
_START_SECONDS = 12.0
_SOLO_SECONDS = 7.0
_PROCESS_BYTES = 450 * 2**20
_MIN_TRAIN = 200


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """The cost of a study, estimated.

    Args:
        num_trials: trained, baselines without training not counted.
        seconds: wall time.
        peak_bytes: memory of all processes together.
        trials_per_pack: lanes.
        cuts: what a budget cut, in words.
    """

    num_trials: int
    seconds: float
    peak_bytes: int
    trials_per_pack: int
    cuts: tuple[str, ...] = ()


def estimate(context: StudyContext, rows: Sequence[StudyRow], protocol: ProtocolConfig, train_rows: int) -> StudyPlan:
    """The cost of a study under a protocol.

    Args:
        context: data and base.
        rows: of the study.
        protocol: possibly a cut one.
        train_rows: training examples.
    """
    base, config = context.base, context.config
    cores = config.engine.workers or available_cores()
    tokens = float(context.encoded("train").lengths.mean())
    embedding = sum(p.numel() for name, p in base.model.named_parameters() if "embed" in name)
    dense = base.num_params - embedding
    rate = product_rate(base.dtype) * cores * _EFFICIENCY
    forward = 2 * dense * tokens / rate
    sizes = {name: len(split) for name, split in context.dataset.splits.items()}
    seconds = _START_SECONDS
    num_trials = 0
    for row in rows:
        if row.method is None:
            continue
        tuning = len(row.lrs) if len(row.lrs) > 1 else 0
        num_trials += tuning + protocol.seeds
        seconds += _SOLO_SECONDS
        if row.id == "head":
            seconds += forward * (train_rows + sizes["validation"] + sizes["test"]) * cores
            continue
        backward = forward if row.method.shares_base else 2 * forward
        train = train_rows * protocol.epochs * (forward + backward)
        seconds += tuning * (train + sizes["validation"] * forward)
        seconds += protocol.seeds * (train + ((protocol.epochs + 1) * sizes["validation"] + sizes["test"]) * forward)
    lanes = lanes_per_pack(config.engine, protocol.batch_size, tokens)
    return StudyPlan(
        num_trials=num_trials,
        seconds=seconds,
        peak_bytes=_peak_bytes(context, rows, cores),
        trials_per_pack=lanes,
    )


def _peak_bytes(context: StudyContext, rows: Sequence[StudyRow], workers: int) -> int:
    """Per worker: process, base, one pass of activations; and what full fine-tuning keeps in float32."""
    base = context.base
    size = torch.empty(0, dtype=base.dtype).element_size()
    config = base.config
    kept = 20 * config.hidden_size * config.num_hidden_layers * size
    activations = context.config.engine.pass_tokens * kept
    private = 16 * base.num_params if any(row.method is not None and not row.method.shares_base for row in rows) else 0
    return workers * (_PROCESS_BYTES + base.num_params * size + activations + private)


def fit_budget(
    context: StudyContext, rows: Sequence[StudyRow], budget: float
) -> tuple[ProtocolConfig, int | None, tuple[str, ...]]:
    """Cut a study until its estimate fits: seeds to 3, tuning to 2, seeds to 2, then training data.

    Args:
        context: data and base.
        rows: of the study.
        budget: seconds.

    Returns:
        The protocol, the limit on training rows (None for all), and the cuts in words.
    """
    protocol = context.config.protocol
    num_train = len(context.dataset.train)
    cuts: list[str] = []

    def fits(candidate: ProtocolConfig, train_rows: int) -> bool:
        cut_rows = _with_tuning(rows, candidate)
        return estimate(context, cut_rows, candidate, train_rows).seconds <= budget

    for name, value in (("seeds", 3), ("tuning_trials", 2), ("seeds", 2)):
        if fits(protocol, num_train):
            break
        before = getattr(protocol, name)
        if before > value:
            protocol = protocol.model_copy(update={name: value})
            cuts.append(f"{name.replace('_', ' ')} from {before} to {value}")
    train_rows = num_train
    while not fits(protocol, train_rows) and train_rows > _MIN_TRAIN:
        train_rows = max(_MIN_TRAIN, int(train_rows * 0.8))
    if train_rows < num_train:
        cuts.append(f"training rows from {num_train} to {train_rows}")
    if not fits(protocol, train_rows):
        cuts.append("and still over the budget: fewer methods or a smaller test set would be needed")
    return protocol, train_rows if train_rows < num_train else None, tuple(cuts)


def _with_tuning(rows: Sequence[StudyRow], protocol: ProtocolConfig) -> list[StudyRow]:
    """Rows with the number of learning rates a protocol tries."""
    cut: list[StudyRow] = []
    for row in rows:
        tuned = row.method is not None and len(row.lrs) > 1
        lrs = row.method.lr_range.grid(max(1, protocol.tuning_trials)) if tuned and row.method else row.lrs
        cut.append(replace(row, lrs=lrs))
    return cut
