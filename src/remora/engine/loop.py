"""The one training loop: steps all lanes of a pack, refills them from the queue, evaluates, and owns the loss.

The loss of a lane is the mean over its batch; losses are summed over lanes, so every lane has the gradient it would
have alone. A pass holds whole examples up to a number of tokens; a lane whose batch does not fit is split over passes
and its gradients are summed, which changes nothing but the order of additions.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from remora.engine.checkpoint import Keeper, State, joined
from remora.engine.driver import Driver
from remora.engine.examples import as_logits, mean_loss, spans
from remora.engine.features import FeatureCache, Prefix
from remora.engine.inference import infer
from remora.engine.lanes import Lane
from remora.engine.line import Line
from remora.engine.readback import due, read_steps, steps_between_reads
from remora.engine.rungs import Halving
from remora.engine.transfer import to_device
from remora.engine.trial import CurvePoint, NoEvents, PackEvents, TrialData, TrialOutcome, TrialSpec

_PassResult = tuple[Tensor, tuple[Tensor | None, ...]]
"""A pass's loss and its gradients, in the order of the lane's trained tensors."""


@dataclass(frozen=True, kw_only=True)
class _Share:
    """The part of a lane's batch that goes into one pass.

    Args:
        lane: whose batch.
        chosen: the examples, and their sequences.
        index: the examples' numbers within the whole batch.
        sequences: of these examples.
        sequence_index: the sequences' numbers within the whole batch.
        weight: what the sum of the losses of the whole batch is divided by.
    """

    lane: Lane
    chosen: np.ndarray
    index: np.ndarray
    sequences: np.ndarray
    sequence_index: np.ndarray
    weight: int


def run_pack(
    driver: Driver,
    data: TrialData,
    specs: Sequence[TrialSpec],
    *,
    slots: int,
    tokens_per_pass: int = 2400,
    parts: int = 1,
    read_every: int | None = None,
    halvings: Sequence[Halving] = (),
    folder: Path | None = None,
    keeper: Keeper | None = None,
    events: PackEvents | None = None,
) -> Iterator[TrialOutcome]:
    """Train trials side by side over one base; outcomes come in the order in which trials finish.

    Args:
        driver: of the base.
        data: shared by all trials.
        specs: trained in this order; a finished lane is replaced by the next one at a step boundary.
        slots: lanes at a time. A trial that trains the base's own weights always has the pack for itself.
        tokens_per_pass: most tokens of one forward and backward pass (at least one sequence). Halved when memory runs
            out; the outcome says what it came to.
        parts: into so many passes every step of a lane that is alone is cut; they run side by side, each with its
            share of torch's threads. Part of the plan: the sums of gradients depend on it, not on the threads. For a
            CPU: a GPU is filled by one large pass.
        read_every: steps after which losses are read from the device and events told; default 1 on a CPU, 16 on a GPU.
        halvings: trials that are compared at rungs, where the worse half stops; a trial that waits for its rivals gives
            its lane to the next one in line.
        folder: on whose disk trials that train the base's own weights wait; None for that of temporary files.
        keeper: of the pack's checkpoints. Where it has one, the pack goes on from there, and gives once more the
            outcomes that came after it. It is cleared by whoever has put all outcomes away.
        events: told of starts, steps and epochs.

    Yields:
        One outcome per trial.
    """
    every = read_every or steps_between_reads(driver.device)
    told = events or NoEvents()
    saved = None if keeper is None else keeper.load()

    def begin(spec: TrialSpec, state: State | None) -> Lane:
        lane = Lane(spec, driver, data, state)
        told.started(spec, lane.num_steps)
        return lane

    line = Line(specs, begin, halvings, folder, None if saved is None else saved.part("line"))
    room, lanes = _Room(tokens_per_pass), list[Lane]()
    if saved is not None:
        by_id, states = {spec.id: spec for spec in specs}, saved.part("lanes")
        room.tokens = saved.facts["room"]["tokens"]
        lanes = [begin(by_id[name], states.part(name)) for name in states.facts]
    with _Crew(parts if driver.device.type == "cpu" else 1) as crew, line:
        yield from _train(driver, data, line, lanes, slots, room, crew, every, keeper, told)


def _train(
    driver: Driver,
    data: TrialData,
    line: Line,
    lanes: list[Lane],
    slots: int,
    room: "_Room",
    crew: "_Crew",
    every: int,
    keeper: Keeper | None,
    told: PackEvents,
) -> Iterator[TrialOutcome]:
    features = FeatureCache(driver, data)
    while lanes or line:
        while len(lanes) < slots and (lane := line.next(lanes)) is not None:
            if lane.finished:
                yield _outcome(driver, data, lane, features)
            else:
                lanes.append(lane)
        if not lanes:
            continue
        _step(driver, data, lanes, features, room, crew)
        if not (due(lanes, every) or any(line.at_rung(lane) for lane in lanes)):
            continue
        running: list[Lane] = []
        for lane, read in zip(lanes, _read(lanes), strict=True):
            for at in read:
                told.step(lane.spec, at + 1, lane.num_steps, lane.losses[at])
            if lane.status == "done" and lane.at_epoch_end:
                _end_epoch(driver, data, lane, features)
                told.epoch(lane.spec, lane.curve[-1])
            if lane.finished:
                line.leave(lane)
                yield _outcome(driver, data, lane, features)
            elif line.at_rung(lane):
                line.wait(lane, *_standing(driver, data, lane, features))
            else:
                running.append(lane)
        for lane in line.stopped():
            yield _outcome(driver, data, lane, features)
        lanes = running
        if keeper is not None and keeper.due:
            keeper.save(_state(lanes, line, room))


def _state(lanes: Sequence[Lane], line: Line, room: "_Room") -> State:
    """All that the rest of the pack depends on."""
    training = joined({lane.spec.id: lane.saved() for lane in lanes})
    return joined({"lanes": training, "line": line.saved(), "room": State(facts={"tokens": room.tokens})})


@torch.no_grad()
def evaluate(
    driver: Driver, data: TrialData, lane: Lane, split: str, features: FeatureCache | None = None
) -> np.ndarray:
    """Logits of a lane on a split, float32, in the split's order; see `Examples.logits`."""
    if features is not None and not lane.adapter.sites and lane.head.shapes and lane.method.shares_base:
        outputs = lane.outputs(features.rows(split), None, None).float().cpu().numpy()
        return as_logits(outputs, data.split(split, 0))
    prefix = None if features is None else features.prefix(split, lane.untouched_layers)
    examples = data.split(split, lane.room)
    return infer(
        driver,
        lane.adapter,
        lambda rows_ND, next_N: lane.outputs(rows_ND, None, None, next_N),
        examples,
        num_outputs=data.num_outputs,
        params=lane.compute_params(),
        enter=None if prefix is None else prefix.entry,
    )


class _Crew:
    """Threads that run the passes of one step side by side.

    Args:
        parts: passes that a lone lane's step is cut into.
    """

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self._pool: ThreadPoolExecutor | None = None
        threads = torch.get_num_threads()
        if parts > 1 and threads > 1:
            each = max(1, threads // parts)
            self._pool = ThreadPoolExecutor(min(parts, threads), initializer=lambda: torch.set_num_threads(each))

    def __enter__(self) -> "_Crew":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, work: Callable[[list[_Share]], _PassResult], passes: Sequence[list[_Share]]) -> list[_PassResult]:
        """The results of all passes, in order."""
        return [work(each) for each in passes] if self._pool is None else list(self._pool.map(work, passes))


class _Room:
    """How many tokens a pass may hold; less after memory ran out. Never less than a batch is trained for that.

    Args:
        tokens: at the start.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def shrink(self, lanes: Sequence[Lane]) -> bool:
        """Halve it: lanes then part into passes of their own, then their batches. False when nothing is left to cut."""
        sizes = [lane.train.tokens(int(example), lane.room) for lane in lanes for example in lane.indices()]
        if self.tokens <= max(sizes):
            return False
        self.tokens = max(min(self.tokens, sum(sizes)) // 2, 1)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True


def _out_of_memory(error: Exception) -> bool:
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(word in str(error) for word in words)


def _step(
    driver: Driver, data: TrialData, lanes: Sequence[Lane], features: FeatureCache, room: _Room, crew: _Crew
) -> None:
    """One optimizer step of every lane. Out of memory, it is begun again with smaller passes: nothing was updated."""
    start = time.perf_counter()
    while True:
        try:
            values = _gradients(driver, data, lanes, features, room.tokens, crew)
            break
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error) or not room.shrink(lanes):
                raise
    for lane, loss in zip(lanes, values, strict=True):
        lane.most_lanes = max(lane.most_lanes, len(lanes))
        lane.tokens_per_pass = min(lane.tokens_per_pass or room.tokens, room.tokens)
        lane.update(loss)
    seconds = time.perf_counter() - start
    for lane in lanes:
        lane.seconds += seconds


def _read(lanes: Sequence[Lane]) -> list[range]:
    """`read_steps`; the time it waits for the device is time of the steps."""
    start = time.perf_counter()
    read = read_steps(lanes)
    for lane in lanes:
        lane.seconds += time.perf_counter() - start
    return read


def _gradients(
    driver: Driver,
    data: TrialData,
    lanes: Sequence[Lane],
    features: FeatureCache,
    tokens_per_pass: int,
    crew: _Crew,
) -> list[Tensor]:
    """Gather the gradients of all lanes' current batches; returns their losses, () each, still on the device."""
    losses = {id(lane): torch.zeros((), device=driver.device) for lane in lanes}
    for lane in lanes:
        lane.optimizer.zero_grad()
        lane.method.before_step(lane.adapter, lane.step, lane.num_steps)
    for lane in lanes:
        if lane.uses_features:
            losses[id(lane)] = _features_step(data, lane, features)
    through_base = [lane for lane in lanes if not lane.uses_features]
    prefix = features.prefix("train", min((lane.steady_layers for lane in through_base), default=0))
    for forward in range(max((lane.method.num_forwards() for lane in through_base), default=0)):
        taking_part = [lane for lane in through_base if forward < lane.method.num_forwards()]
        for lane in taking_part:
            lane.method.before_forward(lane.adapter, lane.step, forward)
        lone = len(taking_part) == 1 and taking_part[0].method.shares_base
        if crew.parts == 1 or not lone:
            every = [(lane, np.arange(len(lane.indices()))) for lane in taking_part]
            for shares in _passes(every, tokens_per_pass, driver.lanes_share_passes):
                parts = _losses(driver, data, shares, forward, prefix)
                torch.stack([loss for _, loss in parts]).sum().backward()
                for lane, loss in parts:
                    losses[id(lane)] = losses[id(lane)] + loss.detach()
        else:
            (lane,) = taking_part
            cut = [
                shares
                for chosen in _even_parts(lane, crew.parts)
                for shares in _passes([(lane, chosen)], tokens_per_pass, lanes_share=True)
            ]
            for loss, grads in crew.run(partial(_apart, driver, data, forward, prefix), cut):
                losses[id(lane)] = losses[id(lane)] + loss
                lane.optimizer.add_grads(grads)
    for lane in lanes:
        penalty = lane.method.penalty(lane.adapter, lane.step)
        if penalty is not None:
            penalty.backward()
            losses[id(lane)] = losses[id(lane)] + penalty.detach()
    return [losses[id(lane)].float() for lane in lanes]


def _features_step(data: TrialData, lane: Lane, features: FeatureCache) -> Tensor:
    chosen = lane.indices()
    train = lane.train
    rows = features.training_rows(chosen, lane.seen)
    targets = to_device(train.targets[chosen], rows.device)
    next_N = train.next_of(train.sequences(chosen), rows.device)
    losses = data.task.loss(train.logits(lane.outputs(rows, None, None, next_N), chosen), targets)
    loss = losses.mean() if train.weights is None else losses.sum() / train.weight(chosen)
    loss.backward()
    return loss.detach()


def _even_parts(lane: Lane, parts: int) -> list[np.ndarray]:
    """The examples of a lane's batch in groups of about equally many tokens, longest first into the emptiest."""
    sizes = np.array([lane.train.tokens(int(example), lane.room) for example in lane.indices()])
    groups: list[list[int]] = [[] for _ in range(min(parts, len(sizes)))]
    filled = [0] * len(groups)
    for number in np.argsort(-sizes, kind="stable"):
        emptiest = filled.index(min(filled))
        groups[emptiest].append(int(number))
        filled[emptiest] += int(sizes[number])
    return [np.array(sorted(group)) for group in groups]


def _passes(work: Sequence[tuple[Lane, np.ndarray]], tokens_per_pass: int, lanes_share: bool) -> Iterator[list[_Share]]:
    """Fill passes with examples, lane by lane, up to a number of tokens.

    Args:
        work: lanes with the numbers of the examples wanted, within their batches.
        tokens_per_pass: see `run_pack`.
        lanes_share: whether a pass may hold several lanes.
    """
    shares: list[_Share] = []
    tokens = 0
    for lane, wanted in work:
        indices = lane.indices()
        start = 0
        for at, number in enumerate(wanted):
            size = lane.train.tokens(int(indices[number]), lane.room)
            if tokens and tokens + size > tokens_per_pass:
                if at > start:
                    shares.append(_share(lane, indices, wanted[start:at]))
                yield shares
                shares, tokens, start = [], 0, at
            tokens += size
        shares.append(_share(lane, indices, wanted[start:]))
        if not lanes_share:
            yield shares
            shares, tokens = [], 0
    if shares:
        yield shares


def _share(lane: Lane, indices: np.ndarray, numbers: np.ndarray) -> _Share:
    train, chosen = lane.train, indices[numbers]
    sequence_index = numbers
    if train.joints is not None:
        ends = np.cumsum(train.num_sequences[indices])
        sequence_index = spans((ends - train.num_sequences[indices])[numbers], ends[numbers])
    return _Share(
        lane=lane,
        chosen=chosen,
        index=numbers,
        sequences=train.sequences(chosen),
        sequence_index=sequence_index,
        weight=train.weight(indices),
    )


def _apart(driver: Driver, data: TrialData, forward: int, prefix: Prefix | None, shares: list[_Share]) -> _PassResult:
    """Loss and gradients of a pass of one lane, without touching what other threads see."""
    ((lane, loss),) = _losses(driver, data, shares, forward, prefix)
    grads = torch.autograd.grad(loss, list(lane.optimizer.params.values()), allow_unused=True)
    return loss.detach(), grads


def _losses(
    driver: Driver, data: TrialData, shares: Sequence[_Share], forward: int, prefix: Prefix | None
) -> list[tuple[Lane, Tensor]]:
    """Forward part of one pass; returns every lane's part of its loss."""
    batches = [
        share.lane.batch(share.lane.train, share.sequences, share.sequence_index, share.lane.dropout_key(forward))
        for share in shares
    ]
    layout = driver.lay_out(batches, training=True)
    first = shares[0].lane
    entry = None
    if prefix is not None:
        entry = prefix.entry(np.concatenate([share.sequences for share in shares]), layout)
    rows, numbers = driver.read(layout, [share.lane.adapter for share in shares], first.compute_params(), entry)
    targets = to_device(np.concatenate([share.lane.train.targets[share.chosen] for share in shares]), rows.device)
    parts: list[tuple[Lane, Tensor]] = []
    start = 0
    for share, reads in zip(shares, layout.lane_reads, strict=True):
        lane = share.lane
        next_N = lane.train.next_of(share.sequences, rows.device)
        logits = lane.train.logits(lane.outputs(rows[reads], layout, numbers[reads], next_N), share.chosen)
        own = targets[start : start + len(share.chosen)]
        start += len(share.chosen)
        num_forwards = lane.method.num_forwards()
        loss = data.task.loss(logits, own).sum() * (1 / (share.weight * num_forwards))
        compared = lane.agreement(logits, share.index, forward) if num_forwards > 1 else None
        parts.append((lane, loss if compared is None else loss + compared.sum() / share.weight))
    return parts


def _end_epoch(driver: Driver, data: TrialData, lane: Lane, features: FeatureCache) -> None:
    spec = lane.spec
    train_loss = lane.epoch_loss()
    point = CurvePoint(step=lane.step, epoch=lane.step / lane.steps_per_epoch, train_loss=train_loss)
    if spec.curve or spec.select == "best-validation":
        logits = evaluate(driver, data, lane, "validation", features)
        loss, metrics = _score(data, lane, "validation", logits)
        point = CurvePoint(
            step=point.step, epoch=point.epoch, train_loss=train_loss, validation_loss=loss, validation=metrics
        )
        if spec.select == "best-validation":
            lane.remember_best(next(iter(metrics.values())))
    lane.curve.append(point)


def _standing(driver: Driver, data: TrialData, lane: Lane, features: FeatureCache) -> tuple[float, float]:
    """Headline metric and loss of a lane on validation, as it stands; the end of an epoch may have looked already."""
    point = lane.curve[-1] if lane.curve else None
    if point is not None and point.step == lane.step and point.validation and point.validation_loss is not None:
        return next(iter(point.validation.values())), point.validation_loss
    loss, metrics = _score(data, lane, "validation", evaluate(driver, data, lane, "validation", features))
    return next(iter(metrics.values())), loss


def _score(data: TrialData, lane: Lane, split: str, logits: np.ndarray) -> tuple[float, dict[str, float]]:
    examples = data.split(split, lane.room)
    losses = data.task.loss(torch.from_numpy(logits), torch.from_numpy(examples.targets))
    return mean_loss(losses, examples), data.task.metrics(examples.targets, logits)


def _outcome(driver: Driver, data: TrialData, lane: Lane, features: FeatureCache) -> TrialOutcome:
    lane.restore_best()
    logits: dict[str, np.ndarray] = {}
    metrics: dict[str, dict[str, float]] = {}
    losses = {"train": lane.curve[-1].train_loss if lane.curve else math.nan}
    if lane.status == "done":
        for split in lane.spec.splits:
            logits[split] = evaluate(driver, data, lane, split, features)
            losses[split], metrics[split] = _score(data, lane, split, logits[split])
    adapter = lane.adapter
    variants: dict[str, dict[str, dict[str, float]]] = {}
    for name, tensors in lane.method.variants().items() if "test" in logits else ():  # tuning chooses none of them
        adapter.variant = tensors
        scores = {split: evaluate(driver, data, lane, split, features) for split in lane.spec.splits}
        variants[name] = {split: _score(data, lane, split, values)[1] for split, values in scores.items()}
        adapter.variant = {}
    norms = lane.grad_norms

    def kept(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.detach().clone().cpu() for name, value in tensors.items()}

    frozen = {f"{key}.{name}": value for key, state in adapter.states.items() for name, value in state.frozen.items()}
    return TrialOutcome(
        spec=lane.spec,
        status=lane.status,
        error=lane.error,
        step=lane.step,
        curve=tuple(lane.curve),
        rungs=tuple(lane.rungs),
        losses=losses,
        metrics=metrics,
        logits=logits,
        variants=variants,
        adapter=kept(adapter.trained()),
        frozen=kept({**frozen, **adapter.shared}),
        head=kept(lane.head_params),
        base_weights=kept(lane.base_params),
        num_params=lane.num_params,
        undertrained=lane.undertrained,
        grad_norm={"mean": float(np.mean(norms)), "min": min(norms), "max": max(norms)} if norms else {},
        train_seconds=lane.seconds,
        examples=sum(len(lane.train) for _ in range(lane.step // lane.steps_per_epoch))
        + min(lane.step % lane.steps_per_epoch * lane.spec.batch_size, len(lane.train)),
        lanes=lane.most_lanes,
        tokens_per_pass=lane.tokens_per_pass,
    )
