"""The encoder-decoders Remora drives: BART, mBART, T5 (with T5 1.1 and Flan-T5) and mT5, one description each.

They run in the padded layout. BART's encoder makes positions of its rows itself, T5 adds a bias of relative positions
to attention scores, and cross-attention has keys that are not its queries' sequence; packed attention knows none of it.
"""

from dataclasses import replace

from remora.models.architectures import Architecture, Decoder, ModelConfigHF, unscaled


def _attention(site: str, module: str, names: tuple[str, str, str, str]) -> dict[str, str]:
    return {f"{site}.{part}": f"{module}.{name}" for part, name in zip("qkvo", names, strict=True)}


_BART_NAMES = ("q_proj", "k_proj", "v_proj", "out_proj")
_BART_SELF = _attention("attention", "self_attn", _BART_NAMES)
_BART_FFN = {"ffn.up": "fc1", "ffn.down": "fc2"}


def _bart_decoder_layers(config: ModelConfigHF) -> int:
    return int(config.decoder_layers)


_BART = Architecture(
    model_type="bart",
    prefix="model",
    layout="padded",
    layers="encoder.layers",
    attention="self_attn",
    linear={**_BART_SELF, **_BART_FFN},
    norms={"norm.attention": "self_attn_layer_norm", "norm.ffn": "final_layer_norm"},
    outer_norms={"norm.embedding": "encoder.layernorm_embedding"},
    embedding="shared",
    pooled="last",
    head=None,
    learned_positions=True,
    functional_dropout=True,
    scales_embeddings=True,
    decoder=Decoder(
        encoder="encoder",
        embeddings={"embedding": "encoder.embed_tokens", "embedding.decoder": "decoder.embed_tokens"},
        layers="decoder.layers",
        num_layers=_bart_decoder_layers,
        linear={**_BART_SELF, **_attention("cross", "encoder_attn", _BART_NAMES), **_BART_FFN},
        norms={
            "norm.attention": "self_attn_layer_norm",
            "norm.cross": "encoder_attn_layer_norm",
            "norm.ffn": "final_layer_norm",
        },
        outer_norms={"norm.embedding": "decoder.layernorm_embedding"},
    ),
    lm_bias="final_logits_bias",
)
_BART_STACK = _BART.decoder
assert _BART_STACK is not None

_MBART = replace(
    _BART,
    model_type="mbart",
    outer_norms={**_BART.outer_norms, "norm.final": "encoder.layer_norm"},
    decoder=replace(_BART_STACK, outer_norms={**_BART_STACK.outer_norms, "norm.final": "decoder.layer_norm"}),
)


def _t5_decoder_layers(config: ModelConfigHF) -> int:
    return int(config.num_decoder_layers)


def _t5_positions(config: ModelConfigHF) -> int:
    """Positions are relative and have no end; T5's files name the length it was trained with, which is 512."""
    return int(config.to_dict().get("n_positions") or 512)


def _t5_scale(config: ModelConfigHF) -> float:
    """Rows are multiplied by d**-0.5, except where the checkpoint says that its head is not tied (T5 1.1, Flan-T5)."""
    return float(config.d_model) ** -0.5 if config.scale_decoder_outputs else 1.0


def _t5_linear(number: int) -> dict[str, str | tuple[str, ...]]:
    """The feed-forward layer of a block, its `number`-th part: act(gate) * up in T5 1.1 and later, act(up) before."""
    module = f"layer.{number}.DenseReluDense"
    return {
        **_attention("attention", "layer.0.SelfAttention", ("q", "k", "v", "o")),
        "ffn.gate": f"{module}.wi_0",
        "ffn.up": (f"{module}.wi", f"{module}.wi_1"),
        "ffn.down": f"{module}.wo",
    }


_T5 = Architecture(
    model_type="t5",
    prefix="",
    layout="padded",
    layers="encoder.block",
    attention="layer.0.SelfAttention",
    linear=_t5_linear(1),
    norms={"norm.attention": "layer.0.layer_norm", "norm.ffn": "layer.1.layer_norm"},
    outer_norms={"norm.final": "encoder.final_layer_norm"},
    embedding="shared",
    pooled="last",
    head=None,
    positions=_t5_positions,
    functional_dropout=True,
    optional=frozenset({"ffn.gate"}),
    decoder=Decoder(
        encoder="encoder",
        embeddings={"embedding": "encoder.embed_tokens", "embedding.decoder": "decoder.embed_tokens"},
        layers="decoder.block",
        num_layers=_t5_decoder_layers,
        linear={**_t5_linear(2), **_attention("cross", "layer.1.EncDecAttention", ("q", "k", "v", "o"))},
        norms={
            "norm.attention": "layer.0.layer_norm",
            "norm.cross": "layer.1.layer_norm",
            "norm.ffn": "layer.2.layer_norm",
        },
        outer_norms={"norm.final": "decoder.final_layer_norm"},
    ),
    lm_scale=_t5_scale,
    reads_weights=True,
)

SEQ2SEQ = (_BART, _MBART, _T5, replace(_T5, model_type="mt5", lm_scale=unscaled))
