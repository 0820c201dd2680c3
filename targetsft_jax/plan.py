"""`python -m targetsft_jax.plan --config FILE --topology v5e:4x4`: what a run takes."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from targetsft_jax.config.load import load
from targetsft_jax.config.schema import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 where the step fits, 1 where it does not, 2 for bad input."""
    own, rest = _parser().parse_known_args(arguments)
    try:
        config = load(rest)
    except ConfigError as error:
        sys.stderr.write(f"configuration: {error}\n")
        return 2
    from targetsft_jax.planning.topology import prepare, topology

    prepare(own.topology)
    from targetsft_jax.planning.plan import make_plan
    from targetsft_jax.planning.rendering import as_json, lines

    try:
        devices = topology(own.topology, own.num_slices)
        plan = make_plan(config, devices, own.capacity)
    except (ConfigError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    print("\n".join(lines(plan)))
    if own.json is not None:
        own.json.write_text(json.dumps(as_json(plan), indent=2) + "\n", "utf-8")
    return 0 if plan.memory.fits else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m targetsft_jax.plan",
        description="Compile a run's training step for devices that need not be here, "
        "and say what it holds, computes and moves. No weights or data are read.",
        epilog="All other keys are those of python -m targetsft_jax.train.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--topology",
        required=True,
        help="v5e:4x4, v5p:2x2x4, …: TPUs by generation and bounds; or cpu:N",
    )
    parser.add_argument(
        "--num-slices", type=int, default=1, help="TPU slices on mesh.data"
    )
    parser.add_argument(
        "--capacity", type=float, help="GiB of a device, in place of its own"
    )
    parser.add_argument("--json", type=Path, help="a file for the same numbers")
    return parser


if __name__ == "__main__":
    sys.exit(main())
