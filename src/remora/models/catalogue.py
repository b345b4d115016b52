"""The architectures Remora drives, one description per transformers ``model_type``."""

from dataclasses import replace

from remora.models.architectures import Architecture, Fused, ModelConfigHF
from remora.models.seq2seq_catalogue import SEQ2SEQ

_QKV = ("attention.q", "attention.k", "attention.v")
_FFN_NAMES = {"ffn.up": "intermediate.dense", "ffn.down": "output.dense"}


def _thirds(config: ModelConfigHF) -> tuple[int, ...]:
    return (config.hidden_size,) * 3


def _heads(config: ModelConfigHF) -> int:
    return config.num_attention_heads


def _halves(config: ModelConfigHF) -> tuple[int, ...]:
    return (int(config.intermediate_size),) * 2


def _phi3_rows(config: ModelConfigHF) -> tuple[int, ...]:
    head_dim = config.hidden_size // config.num_attention_heads
    kv = config.num_key_value_heads * head_dim
    return (config.num_attention_heads * head_dim, kv, kv)


def _after_padding(config: ModelConfigHF) -> int:
    return config.pad_token_id + 1


def _mpnet_offset(config: ModelConfigHF) -> int:
    del config  # MPNetEmbeddings fixes its padding index at 1, whatever the configuration says
    return 2


_BERT = Architecture(
    model_type="bert",
    prefix="bert",
    layers="encoder.layer",
    attention="attention.self",
    linear={
        "attention.q": "attention.self.query",
        "attention.k": "attention.self.key",
        "attention.v": "attention.self.value",
        "attention.o": "attention.output.dense",
        **_FFN_NAMES,
    },
    norms={"norm.attention": "attention.output.LayerNorm", "norm.ffn": "output.LayerNorm"},
    outer_norms={"norm.embedding": "embeddings.LayerNorm"},
    embedding="embeddings.word_embeddings",
    pooled="first",
    head="bert",
    type_ids=True,
    learned_positions=True,
)

_REJOINING = replace(_BERT, rejoin="attention.output")

_ROBERTA = replace(_REJOINING, model_type="roberta", prefix="roberta", head="roberta", offset=_after_padding)

_DISTILBERT = replace(
    _BERT,
    model_type="distilbert",
    prefix="distilbert",
    layers="transformer.layer",
    attention="attention",
    linear={
        "attention.q": "attention.q_lin",
        "attention.k": "attention.k_lin",
        "attention.v": "attention.v_lin",
        "attention.o": "attention.out_lin",
        "ffn.up": "ffn.lin1",
        "ffn.down": "ffn.lin2",
    },
    norms={"norm.attention": "sa_layer_norm", "norm.ffn": "output_layer_norm"},
    head="distilbert",
    type_ids=False,
)

_ALBERT = replace(
    _BERT,
    model_type="albert",
    prefix="albert",
    layers="encoder.albert_layer_groups",
    attention="attention",
    linear={
        "attention.q": "attention.query",
        "attention.k": "attention.key",
        "attention.v": "attention.value",
        "attention.o": "attention.dense",
        "ffn.up": "ffn",
        "ffn.down": "ffn_output",
    },
    norms={"norm.attention": "attention.LayerNorm", "norm.ffn": "full_layer_layer_norm"},
    head="albert",
)

_MODERNBERT = Architecture(
    model_type="modernbert",
    prefix="model",
    layers="layers",
    attention="attn",
    linear={"attention.o": "attn.Wo", "ffn.down": "mlp.Wo"},
    fused={
        "attention.qkv": Fused(module="attn.Wqkv", parts=_QKV, sizes=_thirds),
        # act(first half) * second half: the activated half is what other models call the gate.
        "ffn.gate_up": Fused(module="mlp.Wi", parts=("ffn.gate", "ffn.up"), sizes=_halves),
    },
    norms={"norm.attention": "attn_norm", "norm.ffn": "mlp_norm"},
    outer_norms={"norm.embedding": "embeddings.norm", "norm.final": "final_norm"},
    embedding="embeddings.tok_embeddings",
    pooled="config",
    head="modernbert",
)

_LLAMA = Architecture(
    model_type="llama",
    prefix="model",
    layers="layers",
    attention="self_attn",
    linear={
        "attention.q": "self_attn.q_proj",
        "attention.k": "self_attn.k_proj",
        "attention.v": "self_attn.v_proj",
        "attention.o": "self_attn.o_proj",
        "ffn.gate": "mlp.gate_proj",
        "ffn.up": "mlp.up_proj",
        "ffn.down": "mlp.down_proj",
    },
    norms={"norm.attention": "input_layernorm", "norm.ffn": "post_attention_layernorm"},
    outer_norms={"norm.final": "norm"},
    embedding="embed_tokens",
    pooled="last",
    head="score",
    causal=True,
)

_QK_NORMS = {"norm.q": "self_attn.q_norm", "norm.k": "self_attn.k_norm"}

_GEMMA2 = replace(
    _LLAMA,
    model_type="gemma2",
    norms={
        "norm.attention": "input_layernorm",
        "norm.attention_out": "post_attention_layernorm",
        "norm.ffn": "pre_feedforward_layernorm",
        "norm.ffn_out": "post_feedforward_layernorm",
    },
    scales_embeddings=True,
)

_PHI3 = replace(
    _LLAMA,
    model_type="phi3",
    linear={"attention.o": "self_attn.o_proj", "ffn.down": "mlp.down_proj"},
    fused={
        "attention.qkv": Fused(module="self_attn.qkv_proj", parts=_QKV, sizes=_phi3_rows),
        "ffn.gate_up": Fused(module="mlp.gate_up_proj", parts=("ffn.gate", "ffn.up"), sizes=_halves),
    },
)

_GPT2 = Architecture(
    model_type="gpt2",
    prefix="transformer",
    layers="h",
    attention="attn",
    linear={"attention.o": "attn.c_proj", "ffn.up": "mlp.c_fc", "ffn.down": "mlp.c_proj"},
    fused={"attention.qkv": Fused(module="attn.c_attn", parts=_QKV, sizes=_thirds)},
    norms={"norm.attention": "ln_1", "norm.ffn": "ln_2"},
    outer_norms={"norm.final": "ln_f"},
    embedding="wte",
    pooled="last",
    head="score",
    learned_positions=True,
    causal=True,
)

_OPT = Architecture(
    model_type="opt",
    prefix="model",
    layers="decoder.layers",
    attention="self_attn",
    linear={
        "attention.q": "self_attn.q_proj",
        "attention.k": "self_attn.k_proj",
        "attention.v": "self_attn.v_proj",
        "attention.o": "self_attn.out_proj",
        "ffn.up": "fc1",
        "ffn.down": "fc2",
    },
    norms={"norm.attention": "self_attn_layer_norm", "norm.ffn": "final_layer_norm"},
    outer_norms={"norm.final": "decoder.final_layer_norm"},
    embedding="decoder.embed_tokens",
    pooled="last",
    head="score",
    learned_positions=True,
    functional_dropout=True,
    causal=True,
)

_GPT_NEOX = Architecture(
    model_type="gpt_neox",
    prefix="gpt_neox",
    layers="layers",
    attention="attention",
    linear={"attention.o": "attention.dense", "ffn.up": "mlp.dense_h_to_4h", "ffn.down": "mlp.dense_4h_to_h"},
    fused={"attention.qkv": Fused(module="attention.query_key_value", parts=_QKV, sizes=_thirds, interleaved=_heads)},
    norms={"norm.attention": "input_layernorm", "norm.ffn": "post_attention_layernorm"},
    outer_norms={"norm.final": "final_layer_norm"},
    embedding="embed_in",
    pooled="last",
    head="score",
    causal=True,
)

_MPNET = replace(
    _BERT,
    model_type="mpnet",
    prefix="mpnet",
    layout="padded",
    attention="attention.attn",
    linear={
        "attention.q": "attention.attn.q",
        "attention.k": "attention.attn.k",
        "attention.v": "attention.attn.v",
        "attention.o": "attention.attn.o",
        **_FFN_NAMES,
    },
    norms={"norm.attention": "attention.LayerNorm", "norm.ffn": "output.LayerNorm"},
    head="mpnet",
    type_ids=False,
    offset=_mpnet_offset,
)

_DEBERTA = replace(
    _BERT,
    model_type="deberta-v2",
    prefix="deberta",
    layout="padded",
    linear={
        "attention.q": "attention.self.query_proj",
        "attention.k": "attention.self.key_proj",
        "attention.v": "attention.self.value_proj",
        "attention.pos_q": "attention.self.pos_query_proj",
        "attention.pos_k": "attention.self.pos_key_proj",
        "attention.o": "attention.output.dense",
        **_FFN_NAMES,
    },
    outer_norms={
        "norm.embedding": "embeddings.LayerNorm",
        "norm.relative": "encoder.LayerNorm",
        "norm.conv": "encoder.conv.LayerNorm",
    },
    head="deberta",
    # Relative positions are one table for all sequences, and it goes through the query and key projections too.
    shared_calls=frozenset({"attention.q", "attention.k", "attention.pos_q", "attention.pos_k", "norm.relative"}),
    optional=frozenset({"attention.pos_q", "attention.pos_k"}),
)

ARCHITECTURES: dict[str, Architecture] = {
    arch.model_type: arch
    for arch in (
        _REJOINING,
        _ROBERTA,
        replace(_ROBERTA, model_type="xlm-roberta"),
        replace(_REJOINING, model_type="electra", prefix="electra", head="electra"),
        _DISTILBERT,
        _ALBERT,
        _MODERNBERT,
        _LLAMA,
        replace(_LLAMA, model_type="mistral"),
        replace(_LLAMA, model_type="qwen2"),
        replace(_LLAMA, model_type="qwen3", norms={**_LLAMA.norms, **_QK_NORMS}),
        _GEMMA2,
        replace(_GEMMA2, model_type="gemma3_text", norms={**_GEMMA2.norms, **_QK_NORMS}),
        _GPT2,
        _OPT,
        _PHI3,
        _GPT_NEOX,
        _MPNET,
        _DEBERTA,
        *SEQ2SEQ,
    )
}
