"""`python -m targetsft_jax.plan --config FILE --topology v5e:4x4`: will it fit?

Compiles the very training step of a configuration for devices that need not be here,
and says what it holds, computes and moves on each of them.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from targetsft_jax.training.config import ConfigError, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if the step fits, 1 if not, 2 for a wrong configuration."""
    parser = argparse.ArgumentParser(
        prog="python -m targetsft_jax.plan",
        description="Compile a configuration's training step for devices that need "
        "not be here. All other arguments are those of targetsft_jax.train.",
    )
    parser.add_argument(
        "--topology", required=True, help="v5e:4x4, v5p:2x2x1, v6e:4x8, …, or cpu:8"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    own, rest = parser.parse_known_args(
        sys.argv[1:] if arguments is None else arguments
    )
    from targetsft_jax.planning.compile import before_jax

    try:
        config = load(rest)
        before_jax(own.topology)
        return _plan(config, own.topology, own.json)
    except ConfigError as error:
        sys.stderr.write(f"configuration: {error}\n")
        return 2
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _plan(config, topology: str, path: Path | None) -> int:
    import jax

    from targetsft_jax.planning import report
    from targetsft_jax.planning.chips import CHIPS
    from targetsft_jax.planning.compile import DoesNotFit, compile_step, devices_of

    kind, _, size = topology.partition(":")
    if kind == "cpu" and size.isdigit():
        # Too late where jax has its devices already; `devices_of` counts them.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", int(size))
    chip = CHIPS.get(kind)
    train = config.train
    rows = train.batch_size // train.micro_batches
    print(f"compiling for {topology} …", flush=True)
    try:
        compiled = compile_step(config, devices_of(topology))
    except DoesNotFit as error:
        print("does not fit; the largest allocations:")
        for line in report.allocations(str(error)) or [str(error).splitlines()[0]]:
            print(f"  {line}")
        _say(report.advice(train.remat, train.micro_batches, rows))
        return 1
    plan = report.make_plan(compiled, chip)
    print("\n".join(report.lines(compiled, plan, chip)))
    if path is not None:
        path.write_text(json.dumps(report.as_json(compiled, plan), indent=2) + "\n")
    if not plan.fits:
        _say(report.advice(train.remat, train.micro_batches, rows))
        return 1
    return 0


def _say(advice: Sequence[str]) -> None:
    print("what to change:")
    for line in advice:
        print(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
