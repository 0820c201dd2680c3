"""Model families as data: what a checkpoint calls things, and where we keep them.

A family that differs from these only in names and flags is one entry in `FAMILIES`.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping

from targetsft_jax.models.config import DecoderConfig


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One checkpoint tensor, or one a layer where the key holds `{layer}`.

    Attributes:
        key: its name in the checkpoint.
        paths: keys into our parameters, one path a parameter; with `{layer}`, the
            leaf's leading axis counts layers. Where there are several, the checkpoint
            keeps their rows one after the other in this one tensor.
        transposed: torch keeps `[out, in]` where we keep `[in, out]`.
        flag: the DecoderConfig field without which there is no such tensor.
    """

    key: str
    paths: tuple[tuple[str, ...], ...]
    transposed: bool = False
    flag: str | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """What one `model_type` means.

    Attributes:
        architecture: the class named in config.json's `architectures`.
        tensors: every tensor of a checkpoint.
        flags: DecoderConfig fields that are the same in every checkpoint of the family
            and not as in `PLAIN`.
        reads: DecoderConfig field -> the config.json key that says it.
        only: config.json keys that would change the maths, with the one value
            implemented; an absent key or null means that value.
        defaults: what an absent key means, where it is not as in `DEFAULTS`.
        local: which layers have the window, by a config.json without `layer_types`;
            None for a family without windows.
        switch: the key without which there is no window, whatever its size says.
        rope: the kinds of rotary scaling that transformers has for the family.
        rope_by_layer: base and scaling are of layers without a window only, and
            layers with one have a base of their own.
    """

    architecture: str
    tensors: tuple[Tensor, ...]
    flags: Mapping[str, object] = dataclasses.field(default_factory=dict)
    reads: Mapping[str, str] = dataclasses.field(default_factory=dict)
    only: Mapping[str, object] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, object] = dataclasses.field(default_factory=dict)
    local: Callable[[dict], list[bool]] | None = None
    switch: str | None = None
    rope: tuple[str, ...] = ("default", "linear", "llama3", "yarn")
    rope_by_layer: bool = False


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one checkpoint tensor, or a part of it, lives in our parameters.

    Attributes:
        path: keys into our parameters.
        layer: index on the leaf's leading axis; None where it is not stacked.
        transposed: as in `Tensor`.
        rows: first row and the one past the last, of the checkpoint tensor as it is
            stored, that are this parameter; None where the tensor is one parameter.
    """

    path: tuple[str, ...]
    layer: int | None
    transposed: bool
    rows: tuple[int, int] | None = None


# A decoder without anything that only some families have.
PLAIN = {
    "qkv_bias": False,
    "o_bias": False,
    "qk_norm": False,
    "unit_offset": False,
    "sandwich_norms": False,
    "scale_embedding": False,
    "activation": "silu",
    "partial_rotary_factor": 1.0,
    "query_pre_attn_scalar": None,
    "attn_logit_softcap": None,
    "final_logit_softcap": None,
}

# What transformers takes for a key that is absent, in most families.
DEFAULTS = {
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
}


def _one(key, *path, flag=None):
    return Tensor(key, (path,), flag=flag)


def _norm(name, *path, flag=None):
    key = f"model.layers.{{layer}}.{name}.weight"
    return _one(key, "layers", *path, flag=flag)


def _kernel(module, *paths):
    """A linear layer's weight; several paths where the checkpoint fuses them."""
    key = f"model.layers.{{layer}}.{module}.weight"
    return Tensor(
        key, tuple(("layers", *path, "kernel") for path in paths), transposed=True
    )


def _bias(module, *path, flag):
    key = f"model.layers.{{layer}}.{module}.bias"
    return _one(key, "layers", *path, "bias", flag=flag)


_EMBED = _one("model.embed_tokens.weight", "embed")
_INPUT_NORM = _norm("input_layernorm", "input_norm")
_MLP_NORM = _norm("post_attention_layernorm", "post_norm")
_Q, _K, _V, _O = (("attention", name) for name in "qkvo")
_GATE, _UP, _DOWN = (("mlp", name) for name in ("gate", "up", "down"))
_ATTENTION = (
    _kernel("self_attn.q_proj", _Q),
    _bias("self_attn.q_proj", *_Q, flag="qkv_bias"),
    _kernel("self_attn.k_proj", _K),
    _bias("self_attn.k_proj", *_K, flag="qkv_bias"),
    _kernel("self_attn.v_proj", _V),
    _bias("self_attn.v_proj", *_V, flag="qkv_bias"),
    _kernel("self_attn.o_proj", _O),
    _bias("self_attn.o_proj", *_O, flag="o_bias"),
    _norm("self_attn.q_norm", "attention", "q_norm", flag="qk_norm"),
    _norm("self_attn.k_norm", "attention", "k_norm", flag="qk_norm"),
)
_MLP = (
    _kernel("mlp.gate_proj", _GATE),
    _kernel("mlp.up_proj", _UP),
    _kernel("mlp.down_proj", _DOWN),
)
_ENDS = (_one("model.norm.weight", "final_norm"), _one("lm_head.weight", "head"))

_LLAMA_TENSORS = (_EMBED, _INPUT_NORM, *_ATTENTION, _MLP_NORM, *_MLP, *_ENDS)

# The same names for other norms: what llama calls the one after attention stands
# before the MLP, gemma's stands before the residual stream.
_GEMMA_TENSORS = (
    _EMBED,
    _INPUT_NORM,
    *_ATTENTION,
    _norm("post_attention_layernorm", "attention_out_norm"),
    _norm("pre_feedforward_layernorm", "post_norm"),
    *_MLP,
    _norm("post_feedforward_layernorm", "mlp_out_norm"),
    *_ENDS,
)

_PHI3_TENSORS = (
    _EMBED,
    _INPUT_NORM,
    _kernel("self_attn.qkv_proj", _Q, _K, _V),
    _kernel("self_attn.o_proj", _O),
    _MLP_NORM,
    _kernel("mlp.gate_up_proj", _GATE, _UP),
    _kernel("mlp.down_proj", _DOWN),
    *_ENDS,
)


def all_layers(raw):
    """Every layer has the window, and no config.json says so layer by layer."""
    return [True] * raw["num_hidden_layers"]


def _from_max_window_layers(raw):
    return [n >= raw["max_window_layers"] for n in range(raw["num_hidden_layers"])]


def _all_but_every_last(raw):
    period = raw["sliding_window_pattern"]
    return [(n + 1) % period != 0 for n in range(raw["num_hidden_layers"])]


_COMMON = {"hidden_act": "silu", "quantization_config": None}
_NO_WINDOW = {"use_sliding_window": False}
_BIASES = {"qkv_bias": "attention_bias", "o_bias": "attention_bias"}

_QWEN_WINDOWS = dict(local=_from_max_window_layers, switch="use_sliding_window")
_QWEN_DEFAULTS = {
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}

_GEMMA_FLAGS = {
    "unit_offset": True,
    "sandwich_norms": True,
    "scale_embedding": True,
    "activation": "gelu_tanh",
}
_GEMMA_ONLY = {
    "hidden_activation": "gelu_pytorch_tanh",
    "quantization_config": None,
    "use_bidirectional_attention": False,
}
_GEMMA_DEFAULTS = {
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}

FAMILIES = {
    "llama": Family(
        architecture="LlamaForCausalLM",
        tensors=_LLAMA_TENSORS,
        reads=_BIASES,
        only={**_COMMON, **_NO_WINDOW, "mlp_bias": False},
    ),
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        tensors=_LLAMA_TENSORS,
        flags={"qkv_bias": True},
        only=_COMMON,
        defaults=_QWEN_DEFAULTS,
        **_QWEN_WINDOWS,
    ),
    "qwen3": Family(
        architecture="Qwen3ForCausalLM",
        tensors=_LLAMA_TENSORS,
        flags={"qk_norm": True},
        reads=_BIASES,
        only=_COMMON,
        defaults={**_QWEN_DEFAULTS, "head_dim": 128},
        **_QWEN_WINDOWS,
    ),
    "mistral": Family(
        architecture="MistralForCausalLM",
        tensors=_LLAMA_TENSORS,
        only={**_COMMON, **_NO_WINDOW, "attention_bias": False},
        defaults={"max_position_embeddings": 131072, "sliding_window": 4096},
        local=all_layers,
    ),
    "gemma2": Family(
        architecture="Gemma2ForCausalLM",
        tensors=_GEMMA_TENSORS,
        flags=_GEMMA_FLAGS,
        reads={
            **_BIASES,
            "query_pre_attn_scalar": "query_pre_attn_scalar",
            "attn_logit_softcap": "attn_logit_softcapping",
            "final_logit_softcap": "final_logit_softcapping",
        },
        only={**_GEMMA_ONLY, "sliding_window_pattern": 2},
        defaults={
            **_GEMMA_DEFAULTS,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "sliding_window_pattern": 2,
        },
        local=_all_but_every_last,
    ),
    "gemma3_text": Family(
        architecture="Gemma3ForCausalLM",
        tensors=_GEMMA_TENSORS,
        flags={**_GEMMA_FLAGS, "qk_norm": True},
        reads={
            **_BIASES,
            "query_pre_attn_scalar": "query_pre_attn_scalar",
            "final_logit_softcap": "final_logit_softcapping",
        },
        # transformers has the key and computes without the cap.
        only={**_GEMMA_ONLY, "attn_logit_softcapping": None},
        defaults={
            **_GEMMA_DEFAULTS,
            "max_position_embeddings": 131072,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "sliding_window_pattern": 6,
        },
        local=_all_but_every_last,
        rope_by_layer=True,
    ),
    "phi3": Family(
        architecture="Phi3ForCausalLM",
        tensors=_PHI3_TENSORS,
        reads={"partial_rotary_factor": "partial_rotary_factor"},
        only={**_COMMON, **_NO_WINDOW, "attention_bias": False},
        defaults={
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
            "partial_rotary_factor": 1.0,
        },
        local=all_layers,
        rope=("default",),
    ),
}

# Near to a family, and not it: what to do instead.
_INSTEAD = {
    "gemma3": "That is the multimodal Gemma-3; only its text part (gemma3_text) is. In "
    "transformers: whole = Gemma3ForConditionalGeneration.from_pretrained(folder); "
    "text = Gemma3ForCausalLM(whole.config.text_config); text.model.load_state_dict("
    "whole.model.language_model.state_dict()); text.tie_weights(); "
    "text.save_pretrained(new_folder).",
    "gemma": "The first Gemma has other norms than Gemma-2; it is not implemented.",
}


def family(model_type: str, where: str) -> Family:
    """The family of a `model_type`; ValueError naming `where` it came from if none."""
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(
            f"{where}: model_type is {model_type!r}; supported are "
            f"{', '.join(sorted(FAMILIES))}. "
            + _INSTEAD.get(
                str(model_type),
                "Another family with the same layers is one entry in "
                "targetsft_jax/hf/families.py.",
            )
        )
    return FAMILIES[model_type]


def places(config: DecoderConfig) -> dict[str, tuple[Place, ...]]:
    """Every tensor of a checkpoint of this config, in file order.

    Returns:
        Its key -> where it lives: one place, or several that its rows are shared by,
        in their order.

    Raises:
        ValueError: unknown model_type, or flags that its checkpoints do not have.
    """
    result = {}
    for tensor in checked(config).tensors:
        if tensor.paths == (("head",),) and config.tie_word_embeddings:
            continue
        if tensor.flag is not None and not getattr(config, tensor.flag):
            continue
        stacked = "{layer}" in tensor.key
        for layer in range(config.num_layers) if stacked else (None,):
            key = tensor.key.format(layer=layer)
            result[key] = tuple(
                Place(path, layer, tensor.transposed, rows)
                for path, rows in zip(tensor.paths, _rows(config, tensor.paths))
            )
    return result


def checked(config: DecoderConfig) -> Family:
    """The config's family, whose checkpoints can say all that the config does.

    Raises:
        ValueError: unknown model_type, or flags that its checkpoints do not have.
    """
    found = family(config.model_type, "DecoderConfig")
    fixed = {**PLAIN, **found.flags}
    if found.local is None:
        fixed["sliding_window"] = None
    if found.local is all_layers:
        fixed["sliding_layers"] = None
    if not found.rope_by_layer:
        fixed["local_rope_theta"] = None
    for flag, value in fixed.items():
        if flag not in found.reads and getattr(config, flag) != value:
            raise ValueError(
                f"DecoderConfig.{flag} is {getattr(config, flag)}, but "
                f"{config.model_type!r} checkpoints have it {value}; change {flag} or "
                "model_type."
            )
    for flag, other in itertools.combinations(found.reads, 2):
        same = found.reads[flag] == found.reads[other]
        if same and getattr(config, flag) != getattr(config, other):
            raise ValueError(
                f"DecoderConfig.{flag} is {getattr(config, flag)} and {other} is "
                f"{getattr(config, other)}; {config.model_type!r} checkpoints have one "
                f"{found.reads[flag]} for both."
            )
    return found


def _rows(config, paths):
    """Each parameter's rows of the tensor that they share."""
    if len(paths) == 1:
        return (None,)
    keys = config.num_kv_heads * config.head_dim
    widths = {
        "q": config.num_heads * config.head_dim,
        "k": keys,
        "v": keys,
        "gate": config.intermediate_size,
        "up": config.intermediate_size,
    }
    ends = list(itertools.accumulate(widths[path[-2]] for path in paths))
    return tuple(zip([0, *ends], ends))
