"""`python -m targetsft_jax.plan --config FILE --topology v5e:4x4`: what a run takes."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from targetsft_jax.training.config import ConfigError, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 where the step fits, 1 where it does not, 2 for bad input."""
    own, rest = _parser().parse_known_args(arguments)
    try:
        config = load(rest)
    except ConfigError as error:
        sys.stderr.write(f"configuration: {error}\n")
        return 2
    _prepare(own.topology)
    from targetsft_jax.planning.plan import make_plan
    from targetsft_jax.planning.report import as_json, lines
    from targetsft_jax.planning.topology import topology

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


def _prepare(name: str) -> None:
    """Set up jax to compile for devices that are described, not used."""
    for key, value in (
        # Libtpu would ask the cloud what machine this is, and lock itself.
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-8"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_WORKER_ID", "0"),
        ("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1"),
    ):
        os.environ.setdefault(key, value)
    import jax

    try:
        jax.config.update("jax_platforms", "cpu")
        kind, _, count = name.partition(":")
        if kind == "cpu" and count.isdigit() and int(count) > 0:
            jax.config.update("jax_num_cpu_devices", int(count))
    except RuntimeError:
        # Jax has started: its devices are what they are.
        pass


if __name__ == "__main__":
    sys.exit(main())
