"""Logical axes of the parameters of the decoder's layers."""

from targetsft_jax.models import experts
from targetsft_jax.models.config import DecoderConfig


def layer_axes(config: DecoderConfig) -> dict:
    """Logical axis names of the parameters under "layers".

    Names: "layers", "embed" (the model width), "heads", "kv_heads", "mlp"; None for an
    axis that is not split.

    Returns:
        The tree of the stacked layers with a tuple of names at each leaf.
    """

    def project(source: str, target: str, bias: bool = False) -> dict:
        axes: dict[str, tuple[str, ...]] = {"kernel": ("layers", source, target)}
        return {**axes, "bias": ("layers", target)} if bias else axes

    bias = config.qkv_bias
    norm = ("layers", None)
    heads = {"q_norm": norm, "k_norm": norm} if config.qk_norm else {}
    norms = ["input_norm", "post_norm"] if config.input_norms else []
    norms += ["attention_out_norm", "mlp_out_norm"] if config.output_norms else []
    mlp: dict = {
        "mlp": {
            "gate": project("embed", "mlp"),
            "up": project("embed", "mlp"),
            "down": project("mlp", "embed"),
        }
    }

    if config.num_experts:
        parts = experts.AXES.items()
        mlp = {"experts": {name: ("layers", *axes) for name, axes in parts}}
    return {
        "attention": {
            "q": project("embed", "heads", bias),
            "k": project("embed", "kv_heads", bias),
            "v": project("embed", "kv_heads", bias),
            "o": project("heads", "embed", config.o_bias),
            **heads,
        },
        **mlp,
        **dict.fromkeys(norms, norm),
    }
