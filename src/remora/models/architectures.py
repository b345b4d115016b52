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


Inner = str | tuple[str, ...]
"""A path inside a layer; or several, of which every configuration has one."""


@dataclass(frozen=True, kw_only=True)
class LayerPath:
    """One layer module of a backbone.

    Args:
        path: of the module.
        index: of the first layer it computes. Those of a decoder go on counting where its encoder's end.
        calls: how often a pass calls it.
        decoder: whether it belongs to the decoder of an encoder-decoder.
    """

    path: str
    index: int
    calls: int = 1
    decoder: bool = False


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The second stack of an encoder-decoder; what its `Architecture` says of layers is true of the encoder's.

    Args:
        encoder: path of the encoder, which runs as a whole before the decoder does.
        embeddings: portable name -> path of the modules that embed the tokens of either stack. Their weight is tied to
            that of `Architecture.embedding`, which runs in no pass.
        layers: path of the list of layers.
        num_layers: configuration -> how many.
        linear: portable name -> path inside a layer; ``cross.k`` and ``cross.v`` compute on the encoder's rows.
        norms: portable name -> path inside a layer.
        outer_norms: portable name -> path in the backbone.
    """

    encoder: str
    embeddings: Mapping[str, str]
    layers: str
    num_layers: Callable[[ModelConfigHF], int]
    linear: Mapping[str, Inner]
    norms: Mapping[str, str]
    outer_norms: Mapping[str, str]


def _no_offset(config: ModelConfigHF) -> int:
    del config
    return 0


def _max_position_embeddings(config: ModelConfigHF) -> int:
    return int(config.max_position_embeddings)


def unscaled(config: ModelConfigHF) -> float:
    """No factor on the rows that a language-modelling head reads."""
    del config
    return 1.0


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How one model type is driven and where its sites are.

    Args:
        model_type: transformers' name of it, such as ``"bert"``.
        prefix: name of the backbone inside the classification model (``base_model_prefix``), of an encoder-decoder
            inside the model for conditional generation; empty where that has the backbone's parts itself (T5).
        layout: ``"packed"`` when attention goes through transformers' ``AttentionInterface``, so that all sequences can
            stand in one row dimension; ``"padded"`` (batch, length, features) otherwise.
        layers: path of the list of layers.
        attention: path, inside a layer, of the module that calls the attention function.
        rejoin: path, inside a layer, of a module called with what attention gave and the layer's input, after which
            every row goes its own way: in the last layer it suffices to follow the rows that the head reads. None where
            a layer does that in its own code.
        linear: portable name -> path inside a layer, for linear layers that hold one site; several paths where
            configurations differ in which one they have.
        fused: portable name -> fused linear layer.
        norms: portable name -> path inside a layer.
        outer_norms: portable name -> path in the backbone.
        embedding: path of the token embedding in the backbone; of an encoder-decoder that which both stacks share, and
            whose weight a tied language-modelling head has.
        pooled: which row the head reads, or ``"config"`` for ModernBERT's ``classifier_pooling``.
        head: the head's form, see ``remora.models.head_steps``; None for encoder-decoders, which only write text.
        type_ids: the forward takes ``token_type_ids`` (if the configuration has more than one type).
        offset: configuration -> position id of a sequence's first token.
        learned_positions: positions are a table with an end; otherwise the limit is what the model was trained for.
        positions: configuration -> the size of that table, or that limit.
        functional_dropout: calls ``nn.functional.dropout`` outside packed attention, which no module replacement can
            reach.
        scales_embeddings: the embedding module multiplies by sqrt(hidden size) itself (Gemma): ``inputs_embeds`` must
            be what that module returns, never rows of its weight.
        causal: a token sees only those before it.
        shared_calls: names of sites whose module is also (or only) called on tensors without lane rows, so that a
            method there can serve one lane per pass only.
        optional: linear sites that some configurations do not have.
        decoder: the second stack of an encoder-decoder.
        lm_scale: configuration -> factor on the rows that a language-modelling head reads (T5's, tied).
        lm_bias: name, in transformers' class, of a bias on the logits of the language-modelling head (BART's).
        reads_weights: its own code looks at the weight of linear layers, so that these must be dense.
    """

    model_type: str
    prefix: str
    layout: Layout = "packed"
    layers: str
    attention: str
    rejoin: str | None = None
    linear: Mapping[str, Inner]
    fused: Mapping[str, Fused] = field(default_factory=dict[str, Fused])
    norms: Mapping[str, str]
    outer_norms: Mapping[str, str]
    embedding: str
    pooled: Literal["first", "last", "config"]
    head: HeadStyle | None
    type_ids: bool = False
    offset: Callable[[ModelConfigHF], int] = _no_offset
    learned_positions: bool = False
    positions: Callable[[ModelConfigHF], int] = _max_position_embeddings
    functional_dropout: bool = False
    scales_embeddings: bool = False
    causal: bool = False
    shared_calls: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    decoder: Decoder | None = None
    lm_scale: Callable[[ModelConfigHF], float] = unscaled
    lm_bias: str | None = None
    reads_weights: bool = False

    @property
    def encoder_decoder(self) -> bool:
        """Whether it takes two sequences at once: one that an encoder reads, and one that a decoder goes on with."""
        return self.decoder is not None

    @property
    def hf_prefix(self) -> str:
        """What precedes a backbone path in the names of the classification model, such as ``"bert."``."""
        return self.prefix + "." if self.prefix else ""

    def position_offset(self, config: ModelConfigHF) -> int:
        """Position id of the first token: ``pad_token_id + 1`` for RoBERTa-likes, else 0 (OPT adds its own 2)."""
        return self.offset(config)

    def max_positions(self, config: ModelConfigHF) -> int:
        """The longest sequence, in tokens, that the model has (or was trained with) positions for."""
        limit = self.positions(config)
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
        """The layer modules in the order of their first call: those of an encoder before those of its decoder."""
        if self.model_type == "albert":
            return _albert_layers(self.layers, config)
        depth = int(config.num_hidden_layers)
        own = tuple(LayerPath(path=f"{self.layers}.{i}", index=i) for i in range(depth))
        if self.decoder is None:
            return own
        stack, more = self.decoder.layers, range(self.decoder.num_layers(config))
        return (*own, *(LayerPath(path=f"{stack}.{i}", index=depth + i, decoder=True) for i in more))


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
