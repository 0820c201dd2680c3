"""Memory of the fused loss on TPUs, from their compiler; no TPU is needed.

    pip install "targetsft-jax[tpu]"
    python perf/loss_tpu.py [--tokens 8192 32768 131072] [--chips v5e v5p v6e]

Target-SFT's loss with both gradients, one chip, the sizes of Qwen2.5 1.5B from 7B: see
`TPU` in `problems.py`.
"""

import argparse
from dataclasses import replace

from targetsft_jax.planning.chips import GIB
from targetsft_jax.planning.topology import get_topology, prepare_jax

ONE_CHIP = {"v5e": "v5e:1x1", "v5p": "v5p:1x1x1", "v6e": "v6e:1x1"}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument(
        "--chips", nargs="+", default=list(ONE_CHIP), choices=list(ONE_CHIP)
    )
    options = parser.parse_args()
    prepare_jax("v5e:1x1")
    print(f"{'chip':<6}{'tokens':>8}{'temporaries GiB':>17}")
    for chip in options.chips:
        for tokens in options.tokens:
            print(f"{chip:<6}{tokens:>8}{_temporaries(chip, tokens):>17.2f}")


def _temporaries(chip: str, tokens: int) -> float:
    """Return the GiB of temporaries, by the compiler."""
    # After `prepare_jax`: importing these may start jax.
    import jax
    import numpy as np
    from problems import GRADIENTS, TPU

    problem = replace(TPU, tokens=tokens)
    mesh = jax.sharding.Mesh(np.array(get_topology(ONE_CHIP[chip]).devices), ("x",))
    replicated = jax.NamedSharding(mesh, jax.sharding.PartitionSpec())
    gradients = jax.value_and_grad(problem.loss_and_metrics, GRADIENTS, has_aux=True)
    compiled = jax.jit(gradients).lower(*problem.shapes(replicated)).compile()
    return compiled.memory_analysis().temp_size_in_bytes / GIB


if __name__ == "__main__":
    main()
