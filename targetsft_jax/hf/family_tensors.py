"""Tensors of checkpoints, by layout: names in a file, and the parameters in them."""

import dataclasses

from targetsft_jax.hf.family import Tensor


def _single(key: str, *path: str, flag: str | None = None) -> Tensor:
    return Tensor(key, (path,), flag=flag)


def _norm(name: str, *path: str, flag: str | None = None) -> Tensor:
    key = f"model.layers.{{layer}}.{name}.weight"
    return _single(key, "layers", *path, flag=flag)


def _kernel(module: str, *paths: tuple[str, ...]) -> Tensor:
    """Weight of a linear layer; several paths for fused weights."""
    key = f"model.layers.{{layer}}.{module}.weight"
    return Tensor(
        key, tuple(("layers", *path, "kernel") for path in paths), transposed=True
    )


def _bias(module: str, *path: str, flag: str) -> Tensor:
    key = f"model.layers.{{layer}}.{module}.bias"
    return _single(key, "layers", *path, "bias", flag=flag)


_EMBED = _single("model.embed_tokens.weight", "embed")
_INPUT_NORM = _norm("input_layernorm", "input_norm")
_MLP_NORM = _norm("post_attention_layernorm", "post_norm")
_ATTENTION_OUT_NORM = _norm("post_attention_layernorm", "attention_out_norm")
_MLP_OUT_NORM = _norm("post_feedforward_layernorm", "mlp_out_norm")
_Q, _K, _V, _O = (("attention", name) for name in "qkvo")
_GATE, _UP, _DOWN = (("mlp", name) for name in ("gate", "up", "down"))
_PROJECTIONS = (
    _kernel("self_attn.q_proj", _Q),
    _bias("self_attn.q_proj", *_Q, flag="qkv_bias"),
    _kernel("self_attn.k_proj", _K),
    _bias("self_attn.k_proj", *_K, flag="qkv_bias"),
    _kernel("self_attn.v_proj", _V),
    _bias("self_attn.v_proj", *_V, flag="qkv_bias"),
    _kernel("self_attn.o_proj", _O),
    _bias("self_attn.o_proj", *_O, flag="o_bias"),
)
_ATTENTION = (
    *_PROJECTIONS,
    _norm("self_attn.q_norm", "attention", "q_norm", flag="qk_norm"),
    _norm("self_attn.k_norm", "attention", "k_norm", flag="qk_norm"),
)
_MLP = (
    _kernel("mlp.gate_proj", _GATE),
    _kernel("mlp.up_proj", _UP),
    _kernel("mlp.down_proj", _DOWN),
)
_FUSED_MLP = (
    _kernel("mlp.gate_up_proj", _GATE, _UP),
    _kernel("mlp.down_proj", _DOWN),
)
_ENDS = (
    _single("model.norm.weight", "final_norm"),
    _single("lm_head.weight", "head"),
)

LLAMA = (_EMBED, _INPUT_NORM, *_ATTENTION, _MLP_NORM, *_MLP, *_ENDS)

# `post_attention_layernorm` normalizes the input of the MLP in llama, and the output of
# attention in gemma.
GEMMA = (
    _EMBED,
    _INPUT_NORM,
    *_ATTENTION,
    _ATTENTION_OUT_NORM,
    _norm("pre_feedforward_layernorm", "post_norm"),
    *_MLP,
    _MLP_OUT_NORM,
    *_ENDS,
)

OLMO2 = (_EMBED, *_ATTENTION, _ATTENTION_OUT_NORM, *_MLP, _MLP_OUT_NORM, *_ENDS)

PHI3 = (
    _EMBED,
    _INPUT_NORM,
    _kernel("self_attn.qkv_proj", _Q, _K, _V),
    _kernel("self_attn.o_proj", _O),
    _MLP_NORM,
    *_FUSED_MLP,
    *_ENDS,
)

GLM = (_EMBED, _INPUT_NORM, *_PROJECTIONS, _MLP_NORM, *_FUSED_MLP, *_ENDS)

GLM4 = (
    _EMBED,
    _INPUT_NORM,
    *_PROJECTIONS,
    _norm("post_self_attn_layernorm", "attention_out_norm"),
    _MLP_NORM,
    *_FUSED_MLP,
    _norm("post_mlp_layernorm", "mlp_out_norm"),
    *_ENDS,
)

HUNYUAN = (
    _EMBED,
    _INPUT_NORM,
    *_PROJECTIONS,
    _norm("self_attn.query_layernorm", "attention", "q_norm"),
    _norm("self_attn.key_layernorm", "attention", "k_norm"),
    _MLP_NORM,
    *_MLP,
    *_ENDS,
)


VAULTGEMMA = (
    _EMBED,
    _INPUT_NORM,
    *_PROJECTIONS,
    _norm("pre_feedforward_layernorm", "post_norm"),
    *_MLP,
    *_ENDS,
)

HYPERCLOVAX = (
    *LLAMA,
    _norm("post_norm1", "attention_out_norm", flag="output_norms"),
    _norm("post_norm2", "mlp_out_norm", flag="output_norms"),
)

_EXAONE_NAMES = (
    ("model.embed_tokens.", "transformer.wte."),
    ("model.layers.", "transformer.h."),
    ("model.norm.", "transformer.ln_f."),
    ("self_attn.o_proj.", "self_attn.out_proj."),
    ("self_attn.", "attn.attention."),
    ("post_attention_layernorm.", "ln_2."),
    ("input_layernorm.", "ln_1."),
    ("mlp.gate_proj.", "mlp.c_fc_0."),
    ("mlp.up_proj.", "mlp.c_fc_1."),
    ("mlp.down_proj.", "mlp.c_proj."),
)


def _in_exaone(tensor: Tensor) -> Tensor:
    key = tensor.key
    for ours, theirs in _EXAONE_NAMES:
        key = key.replace(ours, theirs)
    return dataclasses.replace(tensor, key=key)


EXAONE = tuple(map(_in_exaone, LLAMA))


def _experts(block: str, gate: str, up: str, down: str) -> tuple[Tensor, ...]:
    """Router and experts of a layer; the arguments are names in the checkpoint."""
    names = {"gate": gate, "up": up, "down": down}
    router = f"model.layers.{{layer}}.{block}.gate.weight"
    return (
        Tensor(router, (("layers", "experts", "router"),), transposed=True),
        *(
            Tensor(
                f"model.layers.{{layer}}.{block}.experts.{{expert}}.{name}.weight",
                (("layers", "experts", ours),),
                transposed=True,
            )
            for ours, name in names.items()
        ),
    )


_MOE_START = (_EMBED, _INPUT_NORM, *_ATTENTION, _MLP_NORM)
QWEN3_MOE = (
    *_MOE_START,
    *_experts("mlp", "gate_proj", "up_proj", "down_proj"),
    *_ENDS,
)
MIXTRAL = (*_MOE_START, *_experts("block_sparse_moe", "w1", "w3", "w2"), *_ENDS)
