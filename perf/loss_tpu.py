"""The fused loss's memory on TPUs, by their own compiler and with no TPU.

    pip install "targetsft-jax[tpu]"
    python perf/loss_tpu.py [--tokens 8192 32768 131072] [--chips v5e v5p v6e]

Target-SFT, loss and both gradients, V = 151,936, student 1,536 wide and teacher 3,584,
bfloat16, chunks of 2,048 tokens, one chip.
"""

import argparse

from targetsft_jax.planning.topology import get_topology, prepare_jax

V, D, D_TEACHER, CHUNK = 151_936, 1536, 3584, 2048
ALONE = {"v5e": "v5e:1x1", "v5p": "v5p:1x1x1", "v6e": "v6e:1x1"}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument("--chips", nargs="+", default=list(ALONE), choices=list(ALONE))
    asked = parser.parse_args()
    prepare_jax("v5e:1x1")
    print(f"{'chip':<6}{'tokens':>8}{'temporaries GiB':>17}")
    for chip in asked.chips:
        for tokens in asked.tokens:
            print(f"{chip:<6}{tokens:>8}{_temporaries(chip, tokens):>17.2f}")


def _temporaries(chip: str, tokens: int) -> float:
    import jax
    import numpy as np

    from targetsft_jax import fused_loss

    mesh = jax.sharding.Mesh(np.array(get_topology(ALONE[chip]).devices), ("x",))
    place = jax.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def array(*shape, dtype="bfloat16"):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    def pulled(hidden, head, labels, weights, states, other):
        def loss(hidden, head):
            teacher = (states, other)
            return fused_loss(
                "target_sft",
                hidden,
                head,
                labels,
                weights=weights,
                teacher=teacher,
                chunk_size=CHUNK,
            )

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(hidden, head)

    compiled = (
        jax.jit(pulled)
        .lower(
            array(tokens, D),
            array(V, D),
            array(tokens, dtype="int32"),
            array(tokens, dtype="float32"),
            array(tokens, D_TEACHER),
            array(V, D_TEACHER),
        )
        .compile()
    )
    return compiled.memory_analysis().temp_size_in_bytes / 2**30


if __name__ == "__main__":
    main()
