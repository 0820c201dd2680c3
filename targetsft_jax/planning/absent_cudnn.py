"""Lower cuDNN attention without cuDNN and without a GPU.

jax asks cuDNN for its version, and a local GPU for its compute capability, before it
lowers an attention to calls of cuDNN. The calls compile without either, so the answers
of the GPU that a step is compiled for are enough. The functions are private to jax; a
version that has others is refused.
"""

import contextlib
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import jax

from targetsft_jax.planning.gpus import CUDNN, Gpu

_MODULE = "jax._src.cudnn.fused_attention_stablehlo"


@contextlib.contextmanager
def absent_cudnn(gpu: Gpu | None) -> Iterator[None]:
    """Answer jax's questions about cuDNN and the GPU, while a step is lowered.

    Args:
        gpu: model that the step is compiled for; None: nothing is done.

    Raises:
        ValueError: this version of jax asks other questions.
    """
    if gpu is None:
        yield
        return
    capability = gpu.capability
    major, minor, patch_level = CUDNN
    answers: dict[str, Callable[..., Any]] = {
        "check_cudnn_version": lambda: major * 10_000 + minor * 100 + patch_level,
        "check_compute_capability": lambda least: capability >= _numbers(least),
        "is_cuda_compute_capability_equal": lambda value: capability == _numbers(value),
    }
    module = import_module(_MODULE)
    missing = [name for name in answers if not hasattr(module, name)]
    if missing:
        raise ValueError(
            f"jax {jax.__version__} has no {', '.join(missing)} in {_MODULE}, so cuDNN "
            "attention cannot be planned without a GPU; set train.attention to "
            "pallas_gpu or xla, or use jax 0.10 to 0.12"
        )
    originals = {name: getattr(module, name) for name in answers}
    try:
        vars(module).update(answers)
        yield
    finally:
        vars(module).update(originals)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
