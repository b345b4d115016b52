"""Runs an unmodified transformers backbone over passes, with the adapters of the pass's lanes attached at their sites.

Nothing in the model is changed: while a driver is open, some module instances carry a `forward` of their own that looks
up the current pass, and closing the driver takes them away again.
"""

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from remora.engine import attention
from remora.engine.activations import activate, kernel_name
from remora.engine.attention import CurrentPass, Prefixes, probs_counters
from remora.engine.dropout import drop, keep_mask
from remora.engine.layout import LaneBatch, Layout, build_layout
from remora.engine.linear import LaneChange, changed_linear, widen
from remora.engine.pooling import pooled_rows
from remora.engine.stack import Entry, Stack
from remora.engine.two_stacks import build_two_layouts, model_inputs, on_source
from remora.methods.base import AdapterTensors, LinearChange, Rows, SiteWeights, join, weights_at
from remora.models.base import Base
from remora.models.frozen_linear import NF4Linear, linear_weight
from remora.models.sites import Site
from remora.native import kernels

Forward = Callable[..., Any]

_ONLY_SHARED = frozenset({"attention.pos_q", "attention.pos_k", "norm.relative"})
"""Sites whose module never meets lane rows; other shared ones (DeBERTa's q and k) meet them in a pass's first call."""

EVAL_TOKENS = 4096
"""Tokens per pass where no gradient is kept."""


class _FunctionalDropout(TorchFunctionMode):
    """Sends `nn.functional.dropout` calls in the model's own code (OPT, BART, T5) to the keyed dropout."""

    def __init__(self, driver: "Driver") -> None:
        super().__init__()
        self._driver = driver

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.dropout:
            return self._functional(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _functional(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return self._driver.dropout(input, "functional", p) if training and p > 0 else input


class _Running(CurrentPass):
    """What a driver keeps of the pass that a thread is running.

    Args:
        users: the lanes attached at a module, with their sites.
        calls: of each module in this pass so far.
        notes: of each lane's method, from one site of the pass to a later one.
        prefixes: gives what lanes bring to an attention module.
        read_R: the rows to go on with after the last layer's attention; None for all.
    """

    def __init__(self, prefixes: Callable[[str], Prefixes]) -> None:
        self._prefixes = prefixes
        self.read_R: Tensor | None = None
        self.users: dict[str, list[tuple[int, Site, AdapterTensors]]] = {}
        self.calls: dict[str, int] = {}
        self.notes: dict[int, dict[str, Tensor]] = {}

    def prefixes(self, module: str) -> Prefixes:
        """What lanes bring to an attention module."""
        return self._prefixes(module)


class Driver:
    """One base model and the passes it is running, one per thread at most.

    Args:
        base: the base, on the device where passes run; its tensors are never written.
    """

    def __init__(self, base: Base) -> None:
        self.base = base
        self.device = base.device
        self._current = _Running(self._prefixes)
        self._modules = dict(base.model.named_modules())
        self._installed: set[str] = set()
        self._installing = threading.Lock()
        self._stack: Stack | None = None
        self._weights: dict[str, SiteWeights] = {}
        self._columns_of: dict[str, Tensor] = {}
        self._undo: list[Callable[[], None]] = []
        if base.arch.layout == "packed":
            attention.register()
            self._undo.append(attention.bind(base.model, self._current))
            self._undo.append(_use_attention(base.model, attention.NAME))
            # It would read ids from the device, to warn of a mask that packed passes do not need.
            self._override(base.model, lambda *_: None, "warn_if_padding_and_no_attention_mask")
        else:
            self._undo.append(_use_attention(base.model, "eager"))
        for name, module in self._modules.items():
            if isinstance(module, nn.Dropout):
                self._override(module, self._dropout_forward(name, module))
            elif kernel := kernel_name(module):
                self._override(module, _activation_forward(module.forward, kernel))
        self.embedding = _plain_embedding(base.model) if self.device.type == "cpu" else None
        """Name of the table of tokens' embeddings where trained values of it may come as they are (`forward`)."""
        if self.embedding is not None:
            table = self._modules[self.embedding.removesuffix(".weight")]
            self._override(table, _embedding_forward(table, base.dtype))
        if base.arch.decoder is not None:
            encoder = self._modules[base.arch.decoder.encoder]
            self._override(encoder, on_source(self._current, encoder.forward))
        if base.arch.rejoin is not None:
            last = base.arch.layer_paths(base.config)[-1].path
            module = self._modules[f"{last}.{base.arch.rejoin}"]
            self._override(module, self._rejoin_forward(module.forward))

    def close(self) -> None:
        """Take every trace of the driver off the model."""
        while self._undo:
            self._undo.pop()()
        self.base.model.eval()

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def lanes_share_passes(self) -> bool:
        """Whether several lanes may train in one pass; not where the model computes on tensors without lane rows."""
        return not self.base.arch.shared_calls

    def site_weights(self, site: Site, weight_OD: Tensor | None = None) -> SiteWeights:
        """The frozen tensors at a site.

        Args:
            site: of the base.
            weight_OD: of the whole module, where it was made dense already. A quantised one is never kept.
        """
        if isinstance(self._modules[site.module], NF4Linear):
            return weights_at(self.base, site, weight_OD)
        known = self._weights.get(site.id)
        if known is None:
            known = self._weights[site.id] = weights_at(self.base, site)
        return known

    def lay_out(self, batches: Sequence[LaneBatch], *, training: bool) -> Layout:
        """The layout this base needs for one pass over the lanes' sequences."""
        base = self.base
        pad = base.config.pad_token_id
        pad_id = int(pad) if pad is not None else 0
        if base.arch.encoder_decoder:
            return build_two_layouts(batches, pad_id=pad_id, training=training, device=self.device)
        return build_layout(
            batches,
            kind=base.arch.layout,
            position_offset=base.position_offset,
            pad_id=pad_id,
            training=training,
            device=self.device,
        )

    @property
    def num_enterable(self) -> int:
        """How many layers a pass can enter at, from the bottom: all, or one where layers run repeatedly (ALBERT).

        One with two stacks as well, which no single tensor of states goes through.
        """
        layers = self.base.arch.layer_paths(self.base.config)
        return len(layers) if not self.base.arch.encoder_decoder and all(layer.calls == 1 for layer in layers) else 1

    @torch.no_grad()
    def entering(self, layout: Layout, layer: int) -> Tensor:
        """What goes into a layer of the bare base.

        Args:
            layout: a pass of one lane without training.
            layer: below `num_enterable`.

        Returns:
            (T, D) flattened states, in the base's compute dtype.
        """
        return self._watched_stack().input_of(layer, lambda: self.forward(layout, [None]))

    def read(
        self,
        layout: Layout,
        adapters: Sequence[AdapterTensors | None],
        params: Mapping[str, Tensor] | None = None,
        entry: Entry | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The rows that heads read, without computing others after the last layer's attention.

        Args:
            layout: the pass.
            adapters: one per lane of the pass.
            params: replaces the backbone's own tensors by name (full fine-tuning).
            entry: states that are known, as `entering` gave them, so that nothing below them is computed.

        Returns:
            rows (R, D) in the base's compute dtype, one per sequence unless places are given, and the number (R,) of
            the row each comes from.
        """
        if entry is not None:
            with self._watched_stack().entered(entry):
                return self.read(layout, adapters, params)
        pooling = self.base.pooling
        own = [adapter for adapter in adapters if adapter is not None]
        blocks = any(site.name == "block" for adapter in own for site in adapter.sites)
        mean = pooling == "mean" and layout.given_R is None
        if self.base.arch.rejoin is None or mean or blocks or any(each.method.joins_rows for each in own):
            return pooled_rows(self.forward(layout, adapters, params), layout, pooling)
        numbers = layout.given_R
        if numbers is None:
            numbers = layout.last_S if pooling == "last" else layout.first_S
        self._current.read_R = numbers
        try:
            return self.forward(layout, adapters, params), numbers
        finally:
            self._current.read_R = None

    def forward(
        self, layout: Layout, adapters: Sequence[AdapterTensors | None], params: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Hidden states of the last layer, flattened rows.

        Args:
            layout: the pass.
            adapters: one per lane of the pass.
            params: replaces the backbone's own tensors by name (full fine-tuning), in the compute dtype; the one named
                `embedding` in any, since only the rows of tokens that occur are read from it.

        Returns:
            (T, D) in the base's compute dtype; of an encoder-decoder those of the decoder.
        """
        assert self._undo, "the driver is closed"  # the model would compute all the same, and something else
        assert len(adapters) == len(layout.lane_rows)
        current = self._current
        current.users, current.calls, current.notes = {}, {}, {}
        for lane, adapter in enumerate(adapters):
            for site in adapter.sites if adapter is not None else ():
                assert adapter is not None
                current.users.setdefault(site.module, []).append((lane, site, adapter))
                if site.kind != "kv":
                    self._install(site)
        current.layout = layout
        model = self.base.model
        if model.training != layout.training:
            model.train(layout.training)
        keywords = self._keywords(layout)
        try:
            if self.base.arch.functional_dropout and layout.training:
                with _FunctionalDropout(self):
                    output = self._call(params, keywords)
            else:
                output = self._call(params, keywords)
        finally:
            current.users, current.notes = {}, {}
            current.layout = None
        hidden: Tensor = output.last_hidden_state
        return hidden.reshape(-1, hidden.shape[-1])

    def _keywords(self, layout: Layout) -> dict[str, Any]:
        """What the model is called with."""
        if layout.source is not None:
            return model_inputs(layout)
        keywords: dict[str, Any] = {
            "input_ids": layout.input_ids,
            "attention_mask": layout.attention_mask,
            "position_ids": layout.position_ids,
        }
        if self.base.takes_type_ids:
            keywords["token_type_ids"] = layout.type_ids
        if self.base.arch.causal:
            keywords["use_cache"] = False
        return keywords

    def _call(self, params: Mapping[str, Tensor] | None, keywords: dict[str, Any]) -> Any:
        if params is None:
            return self.base.model(**keywords)
        return functional_call(self.base.model, dict(params), kwargs=keywords)

    def dropout(self, x: Tensor, name: str, rate: float) -> Tensor:
        """The base's own dropout, on hidden states, attention probabilities or a tensor all sequences share."""
        layout = self._layout()
        if x.shape[:-1] == layout.input_ids.shape or (layout.kind == "packed" and x.shape[0] == layout.num_rows):
            return layout.dropout.hidden(x, name, rate)
        site = layout.dropout.site(name)
        if x.ndim == 4 and x.shape[0] * x.shape[2] == layout.num_rows:
            keys = layout.dropout.keys(site).view(x.shape[0], 1, x.shape[2])
            mask = keep_mask(keys, x.shape[3], rate, probs_counters(x.shape[1], x.shape[3], x.device))
        else:
            assert len(layout.lane_rows) == 1, f"dropout {name} on {tuple(x.shape)} is shared by all lanes of the pass"
            mask = keep_mask(layout.dropout.shared_keys(site, x.shape[:-1]), x.shape[-1], rate)
        dropped = drop(x, mask.view(x.shape), rate)
        exempt = layout.dropout.exempt()
        if exempt is None:
            return dropped
        if x.ndim == 4 and x.shape[0] * x.shape[2] == layout.num_rows:
            return torch.where(exempt.view(x.shape[0], 1, x.shape[2], 1), x, dropped)
        return x

    # --- what module instances call while the driver is open

    def _layout(self) -> Layout:
        layout = self._current.layout
        assert layout is not None, "the base is driven by its driver only"
        return layout

    def _override(self, module: nn.Module, method: Forward, name: str = "forward") -> None:
        before = vars(module).get(name)
        object.__setattr__(module, name, method)

        def undo() -> None:
            if before is None:
                object.__delattr__(module, name)
            else:
                object.__setattr__(module, name, before)

        self._undo.append(undo)

    def _watched_stack(self) -> Stack:
        """The stack, with every layer asking it; most studies never do."""
        with self._installing:
            if self._stack is None:
                self._stack = Stack()
                for layer in self.base.arch.layer_paths(self.base.config):
                    module = self._modules[layer.path]
                    self._override(module, self._stack.forward(module.forward, layer.index))
            return self._stack

    def _rejoin_forward(self, original: Forward) -> Forward:
        def forward(mixed: Tensor, entered: Tensor) -> Tensor:
            current = self._current
            if current.read_R is None:
                return original(mixed, entered)
            current.layout = self._layout().narrowed(current.read_R)
            return original(mixed.index_select(1, current.read_R), entered.index_select(1, current.read_R))

        return forward

    def _dropout_forward(self, name: str, module: nn.Dropout) -> Forward:
        def forward(x: Tensor) -> Tensor:
            return self.dropout(x, name, module.p) if self._layout().training and module.p > 0 else x

        return forward

    def _prefixes(self, module: str) -> Prefixes:
        given: dict[int, tuple[Tensor, Tensor]] = {}
        for lane, site, adapter in self._current.users.get(module, ()):
            known = self._known(lane, self._layout().lane_rows[lane], key=0, shared=False)
            given[lane] = adapter.method.prefix(adapter.at(site, training=known.training), site, known)
        return given

    def _install(self, site: Site) -> None:
        with self._installing:
            if site.module in self._installed:
                return
            self._installed.add(site.module)
            self._attach(site)

    def _attach(self, site: Site) -> None:
        module = self._modules[site.module]
        original: Forward = module.forward
        linear = site.kind == "linear"

        def forward(*args: Any, **keywords: Any) -> Any:
            users = self._current.users.get(site.module)
            if not users:
                return original(*args, **keywords)
            if linear:
                return self._linear(module, users, args[0])
            return self._transform(original, users, args, keywords)

        self._override(module, on_source(self._current, forward) if site.source else forward)

    def _on_shared(self, site: Site) -> bool:
        """Whether this call of a module is on a tensor that all sequences share; counts the call.

        By the order of calls: a table of relative positions can have as many rows as a pass.
        """
        calls = self._current.calls
        call = calls.get(site.module, 0)
        calls[site.module] = call + 1
        return site.shared and (call > 0 or site.name in _ONLY_SHARED)

    def _rows(self, site: Site, num_rows: int, lane: int, shared: bool) -> slice:
        layout = self._layout()
        if shared and len(layout.lane_rows) == 1:
            return slice(0, num_rows)
        if not shared and num_rows == layout.num_rows:
            return layout.lane_rows[lane]
        raise AssertionError(f"{site.module} met {num_rows} rows, the pass has {layout.num_rows}")

    def _columns(self, site: Site, out_features: int) -> Tensor:
        """Which output features of a fused projection a site is, on the device."""
        if site.id not in self._columns_of:
            self._columns_of[site.id] = torch.arange(out_features)[site.rows()].to(self.device)
        return self._columns_of[site.id]

    def _linear(self, module: nn.Module, users: list[tuple[int, Site, AdapterTensors]], x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        weight_OD = linear_weight(module)
        out_features = weight_OD.shape[0]
        by_lane: dict[int, list[LinearChange]] = {}
        rows: dict[int, slice] = {}
        shared = self._on_shared(users[0][1])
        layout = self._layout()
        for lane, site, adapter in users:
            if not adapter.method.changes(site):
                continue
            state = adapter.at(site, training=layout.training)
            change = adapter.method.change(state, site, self.site_weights(site, weight_OD))
            rows[lane] = self._rows(site, flat.shape[0], lane, shared)
            if change.observe is not None and not shared:
                change.observe(_without_padding(flat.detach(), layout, rows[lane]))
            if site.is_part:
                change = widen(change, self._columns(site, out_features), out_features)
            by_lane.setdefault(lane, []).append(change)
        name = f"{users[0][1].module}.low_rank"
        key = layout.dropout.site(name) if layout.training else 0
        changes = [
            LaneChange(rows=rows[lane], change=join(parts), dropout_site=key, shared=shared)
            for lane, parts in by_lane.items()
        ]
        bias = module.get_parameter("bias") if users[0][1].bias else None
        again = module.dense if isinstance(module, NF4Linear) else None
        y = changed_linear(flat, weight_OD, bias, changes, layout, again)
        transforming = [user for user in users if user[2].method.transforms(user[1])]
        y = self._transformed(transforming, flat, y, shared, weight_OD) if transforming else y
        return y.view(*x.shape[:-1], out_features)

    def _transform(
        self,
        original: Forward,
        users: list[tuple[int, Site, AdapterTensors]],
        args: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> Any:
        output = original(*args, **keywords)
        y: Tensor = output[0] if isinstance(output, tuple) else output
        x: Tensor = args[0] if args else next(iter(keywords.values()))
        x_flat = x.reshape(-1) if x.ndim == y.ndim - 1 else x.reshape(-1, x.shape[-1])
        y_flat = y.reshape(-1, y.shape[-1])
        changed = self._transformed(users, x_flat, y_flat, self._on_shared(users[0][1])).view(y.shape)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def _transformed(
        self,
        users: list[tuple[int, Site, AdapterTensors]],
        x_TD: Tensor,
        y_TO: Tensor,
        shared: bool,
        weight_OD: Tensor | None = None,
    ) -> Tensor:
        """A module's output with the rows of the lanes that transform it replaced, lane by lane."""
        layout = self._layout()
        key = layout.dropout.site(f"{users[0][1].module}.transform") if layout.training else 0
        pieces: list[Tensor] = []
        at = 0
        for lane, own in groupby(users, key=lambda user: user[0]):
            rows = self._rows(users[0][1], y_TO.shape[0], lane, shared)
            if rows.start > at:
                pieces.append(y_TO[at : rows.start])
            piece = y_TO[rows]
            known = self._known(lane, rows, key, shared)
            for _, site, adapter in own:
                columns = torch.arange(piece.shape[1], device=piece.device)[site.rows()] if site.is_part else None
                y = piece if columns is None else piece.index_select(1, columns)
                method, weights = adapter.method, self.site_weights(site, weight_OD)
                state = adapter.at(site, training=layout.training)
                norm = method.norm_weights(state, site, weights) if site.kind == "norm" else None
                if norm is not None:
                    y = _norm_with(self._modules[site.module], norm, x_TD[rows]).to(piece.dtype)
                else:
                    y = method.transform(state, site, weights, x_TD[rows], y, known).to(piece.dtype)
                piece = y if columns is None else piece.index_copy(1, columns, y)
            pieces.append(piece)
            at = rows.stop
        if at < y_TO.shape[0]:
            pieces.append(y_TO[at:])
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def _known(self, lane: int, rows: slice, key: int, shared: bool) -> Rows:
        """What a lane's method may know at one call of a module; `key` is that of the call's dropout."""
        layout = self._layout()

        def dropout(x: Tensor, rate: float) -> Tensor:
            if not layout.training or rate == 0:
                return x
            keys = layout.dropout.shared_keys(key, x.shape[:1]) if shared else layout.dropout.keys(key, rows)
            return drop(x, keep_mask(keys, x.shape[1], rate), rate)

        own = slice(0) if shared else rows
        sequence_T, sequences = layout.sequence_T[own], layout.lane_sequences[lane]
        return Rows(
            virtual_T=None if layout.virtual_T is None or shared else layout.virtual_T[rows],
            training=layout.training,
            dropout=dropout,
            notes=self._current.notes.setdefault(lane, {}),
            sequence_T=sequence_T - sequences.start,
            place_T=layout.place_T[own],
            length_T=layout.length_S[sequence_T],
            num_sequences=sequences.stop - sequences.start,
        )


def _without_padding(x_TD: Tensor, layout: Layout, rows: slice) -> Tensor:
    """The rows of a lane that stand for tokens."""
    if layout.kind == "packed":
        return x_TD[rows]
    assert layout.attention_mask is not None, "a padded pass has a mask"
    return x_TD[rows][layout.attention_mask.reshape(-1)[rows].bool()]


def _norm_with(module: nn.Module, weights: SiteWeights, x_TD: Tensor) -> Tensor:
    """A norm's own computation with other weights, in float32 at least: bfloat16 would round small changes away."""
    twin = copy.copy(module)
    vars(twin).update(weight=weights.weight, bias=weights.bias)  # found before the module's own parameters
    return type(module).forward(twin, x_TD.to(weights.weight.dtype))


def _plain_embedding(model: nn.Module) -> str | None:
    """Name of the table that tokens are looked up in; None where anything else is done with it, or it is scaled."""
    table: Any = model.get_input_embeddings()  # type: ignore[operator]
    users = [name for name, module in model.named_modules() if getattr(module, "weight", None) is table.weight]
    return f"{users[0]}.weight" if type(table) is nn.Embedding and len(users) == 1 else None


def _embedding_forward(table: Any, dtype: torch.dtype) -> Forward:
    """Looking tokens up in trained values: rows are cast, not the table, and only they have a gradient."""
    frozen, original = table.weight, table.forward

    def forward(ids: Tensor) -> Tensor:
        if table.weight is frozen:
            return original(ids)
        return nn.functional.embedding(ids, table.weight, table.padding_idx, sparse=True).to(dtype)

    return forward


def _activation_forward(original: Forward, kernel: str) -> Forward:
    def forward(x: Tensor) -> Tensor:
        return activate(x, kernel) if kernels.usable(x) else original(x)

    return forward


def _use_attention(model: nn.Module, name: str) -> Callable[[], None]:
    """Make every configuration inside the model name our attention; returns what restores them."""
    config: Any = model.config
    nested = [
        config,
        *(getattr(config, key) for key in getattr(config, "sub_configs", {}) if getattr(config, key, None)),
    ]
    before = [(part, part._attn_implementation) for part in nested]
    for part in nested:
        part._attn_implementation = name

    def undo() -> None:
        for part, implementation in before:
            part._attn_implementation = implementation

    return undo
