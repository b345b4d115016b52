"""A lane: everything that belongs to one trial while it trains, and nothing that belongs to its neighbours."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from remora.data.order import permutation
from remora.engine.checkpoint import State
from remora.engine.driver import Driver
from remora.engine.layout import LaneBatch, Layout
from remora.engine.optim import FlatAdamW, ParamRule, lr_factor
from remora.engine.parking import Parked
from remora.engine.rungs import Rung
from remora.engine.survey import weight_gradients
from remora.engine.trial import CurvePoint, Examples, Status, TrialData, TrialSpec
from remora.methods.base import AdapterTensors, Method, init_adapter
from remora.methods.registry import get_method
from remora.models.heads import HeadTemplate
from remora.models.language_head import head_for
from remora.seeds import fold, torch_generator

_FALLING = 0.05
"""A training loss that fell by more than this share over the last quarter of the steps is still falling."""


class Lane:
    """One trial in training.

    Args:
        spec: the trial.
        driver: of the base it trains on.
        data: shared by all trials.
        saved: what `saved` gave, to go on from there.
    """

    def __init__(self, spec: TrialSpec, driver: Driver, data: TrialData, saved: State | None = None) -> None:
        self.spec = spec
        self.data = data
        self._driver = driver
        base = driver.base
        self.method: Method = get_method(spec.method, spec.settings)
        self.method.check_base(base.quantization)
        self.train: Examples = data.split("train", self.room)
        sites = self.method.sites(base)
        self.adapter: AdapterTensors = init_adapter(self.method, sites, driver.site_weights, spec.stream_seed("init"))
        self.head = head_for(base, data.num_outputs, data.head, data.tokens)
        master = torch.float64 if base.dtype == torch.float64 else torch.float32
        self._place(driver.device, master)
        head = self.head.init(torch_generator(spec.stream_seed("head"), "head"))
        start = time.perf_counter()
        if saved is not None:
            _put_back(self.adapter, saved, driver.device)
        elif self.method.num_survey_examples:
            chosen = permutation(spec.seed, 0, len(self.train))[: self.method.num_survey_examples]
            head_params = {name: value.to(driver.device, master) for name, value in head.items()}
            gradients = weight_gradients(driver, self.adapter, self.head, head_params, data.task, self.train, chosen)
            self.method.survey(self.adapter, gradients)
        private = {} if self.method.shares_base else _base_tensors(driver, self.head)
        self._adapter_names = dict.fromkeys(self.adapter.trained())
        self.optimizer = FlatAdamW(
            {**self.adapter.trained(), **head, **private},
            self._rule,
            weight_decay=spec.weight_decay,
            dtype=master,
            device=driver.device,
        )
        for key, state in self.adapter.states.items():
            for name in state.trained:
                state.trained[name] = self.optimizer.params[f"{key}.{name}"]
        self.head_params = {name: self.optimizer.params[name] for name in head}
        self.base_params = {name: self.optimizer.params[name] for name in private}
        self.step = 0
        self.status: Status = "done"
        self.error: str | None = None
        self.curve: list[CurvePoint] = []
        self.rungs: list[Rung] = []
        self.grad_norms: list[float] = []
        self.losses: list[float] = []
        self.unread: list[tuple[Tensor, Tensor]] = []
        """Loss and gradient norm of every step not yet read from the device."""
        self.seconds = time.perf_counter() - start
        self.most_lanes = 1
        self.tokens_per_pass: int | None = None
        self._best: tuple[float, Tensor, int] | None = None
        self._parked: Parked | None = None
        self._permutation: tuple[int, np.ndarray] | None = None
        self._heard: dict[tuple[int, int], Tensor] = {}
        """An example's logits by forward and place in the batch, of the step being taken."""
        if saved is not None:
            self._take_up(saved)

    def _place(self, device: torch.device, master: torch.dtype) -> None:
        adapter = self.adapter
        adapter.shared = {name: value.to(device, master) for name, value in adapter.shared.items()}
        for state in adapter.states.values():
            state.frozen = {
                name: value.to(device, master if value.is_floating_point() else value.dtype)
                for name, value in state.frozen.items()
            }

    def _rule(self, name: str, value: Tensor) -> ParamRule:
        if name not in self._adapter_names:
            return ParamRule(lr_multiplier=self.method.head_lr_multiplier, decay=value.ndim >= 2)
        short = name.rsplit(".", 1)[1]
        return ParamRule(lr_multiplier=self.method.lr_multiplier(short), decay=self.method.decays(short, value))

    # --- how long it trains

    @property
    def room(self) -> int:
        """Tokens of the text budget taken by virtual tokens."""
        return self.method.num_virtual_tokens

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per pass over the training data; the last batch may be smaller."""
        return math.ceil(len(self.train) / self.spec.batch_size)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole trial."""
        steps = self.steps_per_epoch * self.spec.epochs
        return steps if self.spec.max_steps is None else min(steps, self.spec.max_steps)

    @property
    def finished(self) -> bool:
        """Whether no step remains."""
        return self.status != "done" or self.step >= self.num_steps

    @property
    def at_epoch_end(self) -> bool:
        """Whether the last step ended an epoch or the trial."""
        return self.step > 0 and (self.step % self.steps_per_epoch == 0 or self.step == self.num_steps)

    # --- one step

    def indices(self) -> np.ndarray:
        """Training examples of the current step."""
        epoch, at = divmod(self.step, self.steps_per_epoch)
        if self._permutation is None or self._permutation[0] != epoch:
            self._permutation = (epoch, permutation(self.spec.seed, epoch, len(self.train)))
        size = self.spec.batch_size
        return self._permutation[1][at * size : (at + 1) * size]

    @cached_property
    def seen(self) -> np.ndarray | None:
        """Training examples that the trial ever sees, ascending; None for all of them."""
        if self.num_steps >= self.steps_per_epoch:
            return None
        return np.sort(permutation(self.spec.seed, 0, len(self.train))[: self.num_steps * self.spec.batch_size])

    @property
    def uses_features(self) -> bool:
        """Whether the base's output never changes while it trains: no adapter, base dropout off."""
        return self.method.shares_base and not self.adapter.sites and not self.base_dropout

    @property
    def base_dropout(self) -> bool:
        """Whether the base's own dropout is active; never for a lane that trains the head alone."""
        return self.spec.base_dropout and (not self.method.shares_base or bool(self.adapter.sites))

    @cached_property
    def untouched_layers(self) -> int:
        """Layers from the bottom that compute what they compute in the bare base; the last one is never counted."""
        if not self.method.shares_base or self.room or not self.adapter.sites:
            return 0
        most = self._driver.num_enterable - 1
        return min([most, *(max(site.layer, 0) for site in self.adapter.sites if site.name != "norm.final")])

    @property
    def steady_layers(self) -> int:
        """Layers from the bottom whose output for an example is the same in every training step."""
        return 0 if self.base_dropout and self._driver.base.has_dropout else self.untouched_layers

    def dropout_key(self, forward: int) -> int:
        """Key of all masks of the current step's `forward`-th pass."""
        return fold(self.spec.stream_seed("dropout"), "step", self.step, forward)

    def batch(self, examples: Examples, chosen: np.ndarray, index: np.ndarray, dropout_key: int) -> LaneBatch:
        """Sequences for a pass.

        Args:
            examples: of a split.
            chosen: which sequences.
            index: their numbers within the lane's whole batch.
            dropout_key: of this step and forward.
        """
        return LaneBatch(
            ids=[examples.ids[i] for i in chosen],
            type_ids=[examples.type_ids[i] for i in chosen],
            decoder_ids=examples.decoder_of(chosen),
            index=index.tolist(),
            num_virtual=self.room - self.method.num_prefix_tokens,
            num_prefix=self.method.num_prefix_tokens,
            dropout_key=dropout_key,
            base_dropout=self.base_dropout,
            places=None if examples.places is None else [examples.places[i] for i in chosen],
        )

    def compute_params(self) -> Mapping[str, Tensor] | None:
        """The backbone's tensors as passes take them (`Driver.forward`), when this lane trains its own."""
        if not self.base_params:
            return None
        prefix, dtype, uncast = self._driver.base.arch.hf_prefix, self._driver.base.dtype, self._driver.embedding
        pooler = self._driver.base.pooler
        named = {name.removeprefix(prefix): value for name, value in self.base_params.items() if name not in pooler}
        return {name: value if name == uncast else value.to(dtype) for name, value in named.items()}

    def outputs(
        self, rows_ND: Tensor, layout: Layout | None, row_numbers_N: Tensor | None, next_N: Tensor | None = None
    ) -> Tensor:
        """The head on the rows it reads.

        Args:
            rows_ND: (N, D).
            layout: the pass they come from, and `row_numbers_N` where in it; dropout of the head is active in a
                training pass of a lane with base dropout.
            next_N: the token asked for behind each row, if any; see `Examples.next_of`.

        Returns:
            (N, C).
        """
        pooler = {name: self.base_params[name] for name in self.head.frozen_names if name in self.base_params}
        if layout is None or not layout.training or not self.base_dropout:
            return self.head.forward(self.head_params, rows_ND, pooler_params=pooler or None, next_N=next_N)
        keys = layout.dropout

        def drop(x: Tensor, name: str, rate: float) -> Tensor:
            assert row_numbers_N is not None
            return keys.picked(x, f"head.{name}", rate, row_numbers_N)

        return self.head.forward(self.head_params, rows_ND, dropout=drop, pooler_params=pooler or None, next_N=next_N)

    def agreement(self, logits_NC: Tensor, index: np.ndarray, forward: int) -> Tensor | None:
        """What the method makes of a forward's logits beside those of the step's earlier forwards.

        Args:
            logits_NC: of the step's `forward`-th forward, or (N, W, C), where every row is a prediction of its own.
            index: the examples' places in the lane's whole batch.
            forward: from 0.

        Returns:
            (N,) to add to the examples' losses, or None.
        """
        places = index.tolist()
        self._heard |= {(forward, place): row for place, row in zip(places, logits_NC.detach(), strict=True)}
        if forward == 0:
            return None
        earlier = [torch.stack([self._heard[before, place] for place in places]) for before in range(forward)]
        if logits_NC.ndim == 2:
            return self.method.agreement(logits_NC, earlier)
        compared = self.method.agreement(logits_NC.flatten(0, 1), [each.flatten(0, 1) for each in earlier])
        return None if compared is None else compared.view(logits_NC.shape[:2]).sum(1)

    def update(self, loss: Tensor) -> None:
        """Take the optimizer step for the gradients gathered; after a loss or gradient that is not finite, none.

        Nothing is read from the device here: what the step gave, and whether it ended the trial, `settle` learns.

        Args:
            loss: () mean over the batch, including a method's penalty.
        """
        self.adapter.lr = self.spec.lr * lr_factor(self.step, self.num_steps, self.spec.warmup, self.spec.schedule)
        self.method.after_backward(self.adapter, self.step)
        norm = self.optimizer.step(self.adapter.lr, self.spec.clip, loss)
        if type(self.method).after_step is not Method.after_step:
            with torch.no_grad(), self.optimizer.unless_stopped():
                self.method.after_step(self.adapter, self.step)
        self.unread.append((loss, norm))
        self.step += 1

    def settle(self, values: Sequence[Sequence[float]]) -> None:
        """Take in what the unread steps gave; the first that was not finite ends the trial before it.

        Args:
            values: loss and gradient norm per step.
        """
        self.unread = []
        for loss, norm in values:
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self.status = "diverged"
                what = "loss" if not math.isfinite(loss) else "gradient"
                self.step = len(self.losses)
                self.error = f"the {what} was not finite at step {self.step + 1} of {self.num_steps}"
                return
            self.grad_norms.append(norm)
            self.losses.append(loss)

    # --- checkpoints and facts

    def saved(self) -> State:
        """Everything that training has made of the lane, when no step is unread; the next step changes the tensors."""
        assert not self.unread, "what a step gave must be known before it is kept"
        tensors = {f"optimizer/{name}": value for name, value in self.optimizer.saved().items()}
        if self._best is not None:
            tensors["best"] = self._best[1]
        if self._parked is not None:
            waiting = self._parked.look()
            tensors = {name: waiting.get(id(value), value) for name, value in tensors.items()}
        kept, names = _kept_tensors(self.adapter)
        states = self.adapter.states.items()
        trained = [(key, name, value) for key, state in states for name, value in state.trained.items()]
        facts = {
            "step": self.step,
            "status": self.status,
            "error": self.error,
            "curve": [asdict(point) for point in self.curve],
            "rungs": [asdict(rung) for rung in self.rungs],
            "grad_norms": self.grad_norms,
            "losses": self.losses,
            "seconds": self.seconds,
            "most_lanes": self.most_lanes,
            "tokens_per_pass": self.tokens_per_pass,
            "lr": self.adapter.lr,
            "best": None if self._best is None else [self._best[0], self._best[2]],
            # As the optimizer holds them; a method may have dropped some since.
            "shapes": [[key, name, list(self.optimizer.params[f"{key}.{name}"].shape)] for key, name, _ in trained],
            "dropped": [[key, name] for key, name, value in trained if not value.numel()],
            "kept": names,
        }
        return State(tensors={**{name: value.cpu() for name, value in tensors.items()}, **kept}, facts=facts)

    def _take_up(self, saved: State) -> None:
        facts, prefix = saved.facts, "optimizer/"
        moments = {name.removeprefix(prefix): value for name, value in saved.tensors.items() if name.startswith(prefix)}
        self.optimizer.take_up(moments)
        for key, name in facts["dropped"]:
            state = self.adapter.states[key].trained
            state[name] = state[name].detach().new_empty(0)
        if facts["best"] is not None:
            score, num_params = facts["best"]
            self._best = (score, saved.tensors["best"].to(self.optimizer.flat), num_params)
        self.step, self.status, self.error = facts["step"], facts["status"], facts["error"]
        self.curve = [CurvePoint(**point) for point in facts["curve"]]
        self.rungs = [Rung(**rung) for rung in facts["rungs"]]
        self.grad_norms, self.losses = list(facts["grad_norms"]), list(facts["losses"])
        self.seconds, self.most_lanes = facts["seconds"], facts["most_lanes"]
        self.tokens_per_pass, self.adapter.lr = facts["tokens_per_pass"], facts["lr"]

    def park(self, folder: Path | None) -> None:
        """Make little of itself while it waits; a lane over the shared base is small and stays as it is."""
        if not self.method.shares_base:
            best = [] if self._best is None else [self._best[1]]
            self._parked = Parked([*self.optimizer.storage(), *best], folder)

    def fetch(self) -> None:
        """Come back from `park`."""
        if self._parked is not None:
            self._parked.fetch()
            self._parked = None

    def drop(self) -> None:
        """Give up what `park` keeps; the lane is of no use any more."""
        if self._parked is not None:
            self._parked.drop()

    def remember_best(self, score: float) -> None:
        """Keep the present values if `score` (higher is better) is the best so far; the first of equals stays.

        What was best before a method dropped tensors was another model, which cannot come back.
        """
        num_params = self.adapter.num_params()
        if self._best is None or num_params != self._best[2] or score > self._best[0]:
            self._best = (score, self.optimizer.snapshot(), num_params)

    def restore_best(self) -> None:
        """Go back to the best values, if any were remembered."""
        if self._best is not None:
            self.optimizer.restore(self._best[1])

    def epoch_loss(self) -> float:
        """Mean training loss over the steps since the last epoch's end."""
        start = self.curve[-1].step if self.curve else 0
        recent = self.losses[start:]
        return float(np.mean(recent)) if recent else math.nan

    @property
    def undertrained(self) -> bool:
        """Whether the training loss still fell clearly over the last quarter of the steps.

        The mean of the last eighth is compared with that of the eighth before; it must be lower by 5 % and by two
        standard errors.
        """
        size = len(self.losses) // 8
        if size < 4:
            return False
        before, last = np.array(self.losses[-2 * size : -size]), np.array(self.losses[-size:])
        error = math.sqrt((before.var(ddof=1) + last.var(ddof=1)) / size)
        fall = float(before.mean() - last.mean())
        return fall > _FALLING * float(before.mean()) and fall > 2 * error

    @cached_property
    def num_params(self) -> dict[str, int]:
        """Trained numbers: of the adapter, of the head, of the base itself."""
        return {
            "adapter": self.adapter.num_params(),
            "head": sum(value.numel() for value in self.head_params.values()),
            "base_trained": sum(value.numel() for value in self.base_params.values()),
        }


def _kept_tensors(adapter: AdapterTensors) -> tuple[dict[str, Tensor], list[list[str]]]:
    """What an adapter holds besides its trained tensors, numbered, and per number where it belongs."""
    groups = [("frozen", key, state.frozen) for key, state in adapter.states.items()]
    groups += [("drawn", key, drawn) for key, drawn in adapter.drawn.items()]
    groups.append(("extra", "", adapter.extra))
    places: list[list[str]] = []
    tensors: dict[str, Tensor] = {}
    for kind, key, group in groups:
        for name, value in group.items():
            tensors[f"kept/{len(places)}"] = value.detach().cpu().clone()
            places.append([kind, key, name, value.device.type])
    return tensors, places


def _put_back(adapter: AdapterTensors, saved: State, device: torch.device) -> None:
    """Give an adapter the tensors of a checkpoint; trained ones only their shapes, as the optimizer has the values."""
    for state in adapter.states.values():
        state.frozen, state.trained = {}, {}
    for key, name, shape in saved.facts["shapes"]:
        adapter.states[key].trained[name] = torch.zeros(shape, device=device)
    for number, (kind, key, name, where) in enumerate(saved.facts["kept"]):
        value = saved.tensors[f"kept/{number}"].to("cpu" if where == "cpu" else device)
        if kind == "frozen":
            adapter.states[key].frozen[name] = value
        elif kind == "drawn":
            adapter.drawn.setdefault(key, {})[name] = value
        else:
            adapter.extra[name] = value


def _base_tensors(driver: Driver, head: HeadTemplate) -> dict[str, Tensor]:
    """The backbone's parameters (tied ones once) and the pretrained pooler of the head, by Hugging Face name."""
    base = driver.base
    own = {base.arch.hf_prefix + name: value for name, value in base.model.named_parameters()}
    return {**own, **head.pooler}
