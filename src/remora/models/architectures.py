"""What Remora must know about an architecture to drive it: layout, positions, pooling, head, and where its sites are.

One frozen description per ``model_type`` of Hugging Face transformers. Paths are those of the backbone (``BertModel``),
not of the classification model around it. The classes are read in transformers 5.23; tests/models check every line.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from remora.errors import ModelError
from remora.models.suggest import did_you_mean

# The type of a transformers configuration: its fields differ by model, so they are read as attributes of Any.
ModelConfigHF = Any

Layout = Literal["packed", "padded"]
Pooling = Literal["first", "last", "mean"]
HeadStyle = Literal["score", "bert", "albert", "roberta", "electra", "mpnet", "distilbert", "deberta", "modernbert"]
Rows = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Fused:
    """A linear layer that computes several portable sites at once.

    Args:
        module: its path inside a layer.
        parts: the sites in it, such as ``("attention.q", "attention.k", "attention.v")``.
        sizes: configuration -> number of output rows of each part.
        interleaved: configuration -> number of groups (heads) over which the parts alternate; None when each part is
            one contiguous block.
    """

    module: str
    parts: tuple[str, ...]
    sizes: Callable[[ModelConfigHF], tuple[int, ...]]
    interleaved: Callable[[ModelConfigHF], int] | None = None


@dataclass(frozen=True, kw_only=True)
class LayerPath:
    """One layer module of a backbone: its path, the index of the first layer it computes, how often a pass calls it."""

    path: str
    index: int
    calls: int = 1


def _no_offset(config: ModelConfigHF) -> int:
    del config
    return 0


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How one model type is driven and where its sites are.

    Args:
        model_type: transformers' name of it, such as ``"bert"``.
        prefix: name of the backbone inside the classification model (``base_model_prefix``).
        layout: ``"packed"`` when attention goes through transformers' ``AttentionInterface``, so that all sequences can
            stand in one row dimension; ``"padded"`` (batch, length, features) otherwise.
        layers: path of the list of layers.
        attention: path, inside a layer, of the module that calls the attention function.
        rejoin: path, inside a layer, of a module called with what attention gave and the layer's input, after which
            every row goes its own way: in the last layer it suffices to follow the rows that the head reads. None where
            a layer does that in its own code.
        linear: portable name -> path inside a layer, for linear layers that hold one site.
        fused: portable name -> fused linear layer.
        norms: portable name -> path inside a layer.
        outer_norms: portable name -> path in the backbone.
        embedding: path of the token embedding in the backbone.
        pooled: which row the head reads, or ``"config"`` for ModernBERT's ``classifier_pooling``.
        head: the head's form, see ``remora.models.head_steps``.
        type_ids: the forward takes ``token_type_ids`` (if the configuration has more than one type).
        offset: configuration -> position id of a sequence's first token.
        learned_positions: positions are a table with an end; otherwise the limit is what the model was trained for.
        functional_dropout: calls ``nn.functional.dropout`` outside attention, which no module replacement can reach.
        scales_embeddings: the embedding module multiplies by sqrt(hidden size) itself (Gemma): ``inputs_embeds`` must
            be what that module returns, never rows of its weight.
        causal: a token sees only those before it.
        shared_calls: names of sites whose module is also (or only) called on tensors without lane rows, so that a
            method there can serve one lane per pass only.
        optional: linear sites that some configurations do not have.
    """

    model_type: str
    prefix: str
    layout: Layout = "packed"
    layers: str
    attention: str
    rejoin: str | None = None
    linear: Mapping[str, str]
    fused: Mapping[str, Fused] = field(default_factory=dict[str, Fused])
    norms: Mapping[str, str]
    outer_norms: Mapping[str, str]
    embedding: str
    pooled: Literal["first", "last", "config"]
    head: HeadStyle
    type_ids: bool = False
    offset: Callable[[ModelConfigHF], int] = _no_offset
    learned_positions: bool = False
    functional_dropout: bool = False
    scales_embeddings: bool = False
    causal: bool = False
    shared_calls: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()

    @property
    def hf_prefix(self) -> str:
        """What precedes a backbone path in the names of the classification model, such as ``"bert."``."""
        return self.prefix + "."

    def position_offset(self, config: ModelConfigHF) -> int:
        """Position id of the first token: ``pad_token_id + 1`` for RoBERTa-likes, else 0 (OPT adds its own 2)."""
        return self.offset(config)

    def max_positions(self, config: ModelConfigHF) -> int:
        """The longest sequence, in tokens, that the model has (or was trained with) positions for."""
        limit = int(config.max_position_embeddings)
        return limit - self.offset(config) if self.learned_positions else limit

    def takes_type_ids(self, config: ModelConfigHF) -> bool:
        """Whether ``token_type_ids`` change anything: the forward takes them and there is more than one type."""
        return self.type_ids and int(config.type_vocab_size) > 1

    def pooling(self, config: ModelConfigHF) -> Pooling:
        """Which row of a sequence the head reads; ``"mean"`` is over all its real tokens."""
        if self.pooled != "config":
            return self.pooled
        return "mean" if config.classifier_pooling == "mean" else "first"

    def layer_paths(self, config: ModelConfigHF) -> tuple[LayerPath, ...]:
        """The layer modules in the order of their first call."""
        if self.model_type == "albert":
            return _albert_layers(self.layers, config)
        return tuple(LayerPath(path=f"{self.layers}.{i}", index=i) for i in range(config.num_hidden_layers))


def _albert_layers(layers: str, config: ModelConfigHF) -> tuple[LayerPath, ...]:
    """ALBERT runs one group of layers several times: each module once, with its number of calls."""
    depth, groups, inner = config.num_hidden_layers, config.num_hidden_groups, config.inner_group_num
    group_of = [int(i / (depth / groups)) for i in range(depth)]
    return tuple(
        LayerPath(
            path=f"{layers}.{group}.albert_layers.{j}",
            index=group_of.index(group) * inner + j,
            calls=group_of.count(group),
        )
        for group in sorted(set(group_of))
        for j in range(inner)
    )


def get_architecture(model_type: str, origin: str = "") -> Architecture:
    """The description of a model type.

    Args:
        model_type: as in a model's ``config.json``.
        origin: what was being loaded, for the message.

    Raises:
        ModelError: the architecture is not supported; the message lists those that are.
    """
    from remora.models.catalogue import ARCHITECTURES

    found = ARCHITECTURES.get(model_type)
    if found is None:
        where = f"{origin}: " if origin else ""
        raise ModelError(
            f"{where}model type {model_type!r} is not supported{did_you_mean(model_type, ARCHITECTURES)}",
            "supported are " + ", ".join(sorted(ARCHITECTURES)),
        )
    return found
