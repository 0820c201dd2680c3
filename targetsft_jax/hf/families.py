"""Model families as data: what a checkpoint calls things, and where we keep them.

A family that differs from these only in names and flags is one entry in `FAMILIES`.
"""

import dataclasses
import itertools

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
    """

    key: str
    paths: tuple[tuple[str, ...], ...]
    transposed: bool = False


@dataclasses.dataclass(frozen=True)
class Family:
    """What one `model_type` means.

    Attributes:
        architecture: the class named in config.json's `architectures`.
        qkv_bias: query, key and value projections carry a bias.
        only: config.json keys that would change the maths, with the one value
            implemented; an absent key or null means that value.
        tensors: every tensor of a checkpoint.
    """

    architecture: str
    qkv_bias: bool
    only: dict[str, object]
    tensors: tuple[Tensor, ...]


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


def _one(key, *path):
    return Tensor(key, (path,))


def _kernel(module, *paths):
    """A linear layer's weight; several paths where the checkpoint fuses them."""
    key = f"model.layers.{{layer}}.{module}.weight"
    return Tensor(
        key, tuple(("layers", *path, "kernel") for path in paths), transposed=True
    )


def _bias(module, *path):
    return _one(f"model.layers.{{layer}}.{module}.bias", "layers", *path, "bias")


_LLAMA_TENSORS = (
    _one("model.embed_tokens.weight", "embed"),
    _one("model.layers.{layer}.input_layernorm.weight", "layers", "input_norm"),
    _kernel("self_attn.q_proj", ("attention", "q")),
    _kernel("self_attn.k_proj", ("attention", "k")),
    _kernel("self_attn.v_proj", ("attention", "v")),
    _kernel("self_attn.o_proj", ("attention", "o")),
    _one("model.layers.{layer}.post_attention_layernorm.weight", "layers", "post_norm"),
    _kernel("mlp.gate_proj", ("mlp", "gate")),
    _kernel("mlp.up_proj", ("mlp", "up")),
    _kernel("mlp.down_proj", ("mlp", "down")),
    _one("model.norm.weight", "final_norm"),
    _one("lm_head.weight", "head"),
)

_QKV_BIASES = (
    _bias("self_attn.q_proj", "attention", "q"),
    _bias("self_attn.k_proj", "attention", "k"),
    _bias("self_attn.v_proj", "attention", "v"),
)

_COMMON = {
    "hidden_act": "silu",
    "quantization_config": None,
    "use_sliding_window": False,
}

FAMILIES = {
    "llama": Family(
        architecture="LlamaForCausalLM",
        qkv_bias=False,
        only={**_COMMON, "attention_bias": False, "mlp_bias": False},
        tensors=_LLAMA_TENSORS,
    ),
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        qkv_bias=True,
        only=_COMMON,
        tensors=_LLAMA_TENSORS + _QKV_BIASES,
    ),
}


def family(model_type: str, where: str) -> Family:
    """The family of a `model_type`; ValueError naming `where` it came from if none."""
    if model_type not in FAMILIES:
        raise ValueError(
            f"{where}: model_type is {model_type!r}; supported are "
            f"{', '.join(sorted(FAMILIES))}. Another family with the same layers is "
            "one entry in targetsft_jax/hf/families.py."
        )
    return FAMILIES[model_type]


def places(config: DecoderConfig) -> dict[str, tuple[Place, ...]]:
    """Every tensor of a checkpoint of this config, in file order.

    Returns:
        Its key -> where it lives: one place, or several that its rows are shared by,
        in their order.

    Raises:
        ValueError: unknown model_type, or one whose biases are not the config's.
    """
    found = family(config.model_type, "DecoderConfig")
    if found.qkv_bias != config.qkv_bias:
        raise ValueError(
            f"DecoderConfig.qkv_bias is {config.qkv_bias}, but {config.model_type!r} "
            f"checkpoints have it {found.qkv_bias}; change qkv_bias or model_type."
        )
    result = {}
    for tensor in found.tensors:
        if tensor.paths == (("head",),) and config.tie_word_embeddings:
            continue
        stacked = "{layer}" in tensor.key
        for layer in range(config.num_layers) if stacked else (None,):
            key = tensor.key.format(layer=layer)
            result[key] = tuple(
                Place(path, layer, tensor.transposed, rows)
                for path, rows in zip(tensor.paths, _rows(config, tensor.paths))
            )
    return result


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
