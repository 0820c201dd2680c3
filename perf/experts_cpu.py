"""Time of one layer of experts against three other computations, on one core of a CPU.

    pip install "targetsft-jax[parity]"
    python perf/experts_cpu.py [--rounds 7]

Forward, and forward with the gradients of input and parameters, of random layers with
the proportions of Mixtral and Qwen3-MoE: ours (rows sorted by expert, multiplied in
blocks); the same with `jax.lax.ragged_dot`; every token with all experts, weighted by
the router; and two implementations of the layer of transformers. Rounds alternate
between them; medians of CPU seconds on one core are compared. The outputs are equal.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from targetsft_jax.models import experts
from targetsft_jax.models.config import DecoderConfig

Params = Mapping[str, Array]
OURS = "ours"
TORCH = ("eager", "grouped_mm")
"""Implementations of transformers; the second is its default."""


@dataclass(frozen=True)
class Layer:
    """Sizes of a layer: N tokens, width D, E experts of width F, k of them chosen."""

    name: str
    tokens: int
    width: int
    count: int
    size: int
    chosen: int

    @property
    def config(self) -> DecoderConfig:
        """Decoder with this layer."""
        return DecoderConfig(
            vocab_size=8,
            hidden_size=self.width,
            intermediate_size=self.size,
            num_layers=1,
            num_heads=1,
            num_kv_heads=1,
            num_experts=self.count,
            experts_per_token=self.chosen,
            expert_size=self.size,
            norm_topk_prob=True,
        )

    def arrays(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Random parameters as in `experts.AXES`, and input [N, D]."""
        rng = np.random.default_rng(0)

        def normal(*shape: int) -> np.ndarray:
            values = rng.normal(size=shape) / shape[-2] ** 0.5
            return values.astype(np.float32)

        width, count, size = self.width, self.count, self.size
        params = {
            "router": normal(width, count),
            "gate": normal(count, width, size),
            "up": normal(count, width, size),
            "down": normal(count, size, width),
        }
        return params, rng.normal(size=(self.tokens, width)).astype(np.float32)


LAYERS = (
    Layer("Mixtral", 1024, 512, 8, 1024, 2),
    Layer("Qwen3-MoE", 1024, 512, 128, 192, 8),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each")
    options = parser.parse_args()
    heads = f"{'forward ms':>11}{'x ours':>8}{'+ backward':>12}{'x ours':>8}"
    print(f"{'layer':<12}{'':<26}{heads}")
    for layer in LAYERS:
        forwards, backwards = _runs(layer)
        expected = forwards[OURS]()
        for name, run in forwards.items():
            np.testing.assert_allclose(run(), expected, atol=1e-4, err_msg=name)
        columns = [_medians(runs, options.rounds) for runs in (forwards, backwards)]
        for name in forwards:
            cells = ""
            for medians, width in zip(columns, (11, 12), strict=True):
                ratio = medians[name] / medians[OURS]
                cells += f"{1e3 * medians[name]:>{width}.1f}{ratio:>8.2f}"
            print(f"{layer.name:<12}{name:<26}{cells}", flush=True)


def _medians(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds by name."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):  # The first one warms up.
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def _runs(
    layer: Layer,
) -> tuple[dict[str, Callable[[], np.ndarray]], dict[str, Callable[[], object]]]:
    """Forward, and forward with gradients, of each computation by name."""
    arrays, x = layer.arrays()
    params = {name: jnp.asarray(value) for name, value in arrays.items()}
    forwards: dict[str, Callable[[], np.ndarray]] = {}
    backwards: dict[str, Callable[[], object]] = {}
    for name, function in (
        (OURS, _ours),
        ("ragged_dot", _ragged),
        ("all experts", _all_experts),
    ):

        def output(
            params: Params,
            x: Array,
            function: Callable[[Layer, Params, Array], Array] = function,
        ) -> Array:
            return function(layer, params, x)

        def loss(
            params: Params,
            x: Array,
            output: Callable[[Params, Array], Array] = output,
        ) -> Array:
            return jnp.sum(output(params, x) ** 2)

        forward = jax.jit(output).lower(params, x).compile()
        backward = jax.jit(jax.grad(loss, (0, 1))).lower(params, x).compile()
        forwards[name] = lambda run=forward: np.asarray(run(params, x))
        backwards[name] = lambda run=backward: jax.block_until_ready(run(params, x))
    for name in TORCH:
        title = f"transformers, {name}"
        forwards[title], backwards[title] = _transformers(layer, arrays, x, name)
    return forwards, backwards


def _ours(layer: Layer, params: Params, x: Array) -> Array:
    is_real = jnp.ones((1, layer.tokens), bool)
    return experts.mixed(layer.config, params, x[None], is_real)[0][0]


def _ragged(layer: Layer, params: Params, x: Array) -> Array:
    """Our layer with the product of accelerators, and its own gradient."""
    with patch.object(experts, "grouped_dot", jax.lax.ragged_dot):
        return _ours(layer, params, x)


def _all_experts(layer: Layer, params: Params, x: Array) -> Array:
    """Every token with every expert, summed with weights that are mostly 0."""
    probability = jax.nn.softmax(x @ params["router"])
    weights, chosen = jax.lax.top_k(probability, layer.chosen)
    weights /= weights.sum(-1, keepdims=True)
    dense = jnp.zeros((layer.tokens, layer.count))
    dense = dense.at[jnp.arange(layer.tokens)[:, None], chosen].set(weights)
    hidden = jax.nn.silu(jnp.einsum("nd,edf->enf", x, params["gate"]))
    hidden *= jnp.einsum("nd,edf->enf", x, params["up"])
    return jnp.einsum("enf,efd,ne->nd", hidden, params["down"], dense)


def _transformers(
    layer: Layer, arrays: Mapping[str, np.ndarray], x: np.ndarray, implementation: str
) -> tuple[Callable[[], np.ndarray], Callable[[], object]]:
    """The layer of Qwen3-MoE, which routes like Mixtral's."""
    import torch
    from transformers.models.qwen3_moe import modeling_qwen3_moe as qwen3_moe

    config = qwen3_moe.Qwen3MoeConfig(
        hidden_size=layer.width,
        num_experts=layer.count,
        num_experts_per_tok=layer.chosen,
        moe_intermediate_size=layer.size,
        norm_topk_prob=True,
    )
    config._experts_implementation = implementation
    block = qwen3_moe.Qwen3MoeSparseMoeBlock(config)
    into = np.concatenate([arrays["gate"], arrays["up"]], axis=-1).swapaxes(1, 2)
    with torch.no_grad():
        block.gate.weight.copy_(torch.tensor(arrays["router"].T))
        block.experts.gate_up_proj.copy_(torch.tensor(into))
        block.experts.down_proj.copy_(torch.tensor(arrays["down"].swapaxes(1, 2)))
    inputs = torch.tensor(x)[None]

    def forward() -> np.ndarray:
        with torch.no_grad():
            return block(inputs)[0].numpy()

    def backward() -> object:
        block.zero_grad()
        leaf = inputs.clone().requires_grad_()
        (block(leaf) ** 2).sum().backward()
        return leaf.grad

    return forward, backward


if __name__ == "__main__":
    # One core, so that CPU time compares: threads that wait for others count, too.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    main()
