"""Map between the tensors of a checkpoint and the parameters of a decoder."""

import dataclasses
import itertools
from collections.abc import Sequence

from targetsft_jax.hf.family_lookup import checked
from targetsft_jax.models.config import DecoderConfig


@dataclasses.dataclass(frozen=True)
class ParameterSlice:
    """Slice of a parameter that is stored in a checkpoint tensor or a part of it.

    Attributes:
        path: path of the parameter.
        layer: index on its leading axis; None for a parameter without layers.
        transposed: True if it is stored as `[out, in]`, see `families.Tensor`.
        rows: rows [start, stop) of the stored tensor; None for all of them.
        expert: index on its second axis; None for a parameter without experts.
    """

    path: tuple[str, ...]
    layer: int | None
    transposed: bool
    rows: tuple[int, int] | None = None
    expert: int | None = None

    @property
    def index(self) -> tuple[int, ...]:
        """Indices on the leading axes of the parameter."""
        return tuple(n for n in (self.layer, self.expert) if n is not None)


def checkpoint_tensors(
    config: DecoderConfig, *, modules: bool = False
) -> dict[str, tuple[ParameterSlice, ...]]:
    """Tensors of a checkpoint of this config, in file order.

    Args:
        config: the decoder.
        modules: keys with the names of transformers' modules, which adapters have.

    Returns:
        Key -> parameter slices of the tensor; several for a fused tensor, in the order
        of their rows.

    Raises:
        ValueError: unknown model_type, or flags that its checkpoints do not have.
    """
    slices = {}
    entry = checked(config)
    for tensor in entry.modules if modules and entry.modules else entry.tensors:
        if tensor.paths == (("head",),) and config.tie_word_embeddings:
            continue
        if tensor.flag is not None and not getattr(config, tensor.flag):
            continue
        rows_of_paths = list(zip(tensor.paths, _rows(config, tensor.paths)))
        for layer, expert in itertools.product(
            _numbers(tensor.key, "{layer}", config.num_layers),
            _numbers(tensor.key, "{expert}", config.num_experts),
        ):
            slices[tensor.key.format(layer=layer, expert=expert)] = tuple(
                ParameterSlice(path, layer, tensor.transposed, rows, expert)
                for path, rows in rows_of_paths
            )
    return slices


def _numbers(key: str, placeholder: str, count: int) -> Sequence[int | None]:
    """Values of a placeholder of a key; None if it has none."""
    return range(count) if placeholder in key else (None,)


def _rows(
    config: DecoderConfig, paths: tuple[tuple[str, ...], ...]
) -> Sequence[tuple[int, int] | None]:
    """Rows of each parameter in its tensor."""
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
    return list(zip([0, *ends], ends))
