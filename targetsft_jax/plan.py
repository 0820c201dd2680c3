"""Plan a run: `python -m targetsft_jax.plan --config FILE --topology v5e:4x4`."""

import argparse
from collections.abc import Sequence

from targetsft_jax import command
from targetsft_jax.command import leave, run_command
from targetsft_jax.config.load import load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; DOES_NOT_FIT is 3."""
    return run_command(_plan, arguments)


def _plan(arguments: list[str]) -> int:
    options, config_arguments = _parser().parse_known_args(arguments)
    config = load(config_arguments)
    from targetsft_jax.planning.topology import get_topology, prepare_jax

    prepare_jax(options.topology)
    from targetsft_jax.planning.plan import make_plan
    from targetsft_jax.planning.rendering import lines, write_json

    topology = get_topology(options.topology, options.num_slices)
    plan = make_plan(config, topology, options.capacity)
    print("\n".join(lines(plan)))
    if options.json is not None:
        write_json(plan, options.json)
    return command.DONE if plan.memory.fits else command.DOES_NOT_FIT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m targetsft_jax.plan",
        description="Compile a run's train step for devices that may be absent, and "
        "report memory, FLOPs and collective traffic per device. No weights and no "
        "data are read.",
        epilog="--config FILE and all other keys are those of python -m "
        "targetsft_jax.train; see its --help. Exit codes: 0 the step fits; 1 failed; 2 "
        "the arguments or the configuration cannot be used; 3 the step does not fit.",
        allow_abbrev=False,
    )
    topology = "TPU generation and bounds, such as v5e:4x4 or v5p:2x2x4; or cpu:N"
    slices = "TPU slices of this topology, joined along mesh.data (default: 1)"
    capacity = "memory per device in GiB (default: that of the TPU generation)"
    parser.add_argument("--topology", required=True, help=topology)
    parser.add_argument("--num-slices", type=int, default=1, metavar="N", help=slices)
    parser.add_argument(
        "--capacity", type=command.positive_number, metavar="GIB", help=capacity
    )
    parser.add_argument(
        "--json", type=command.output_file, metavar="FILE", help="write JSON to FILE"
    )
    return parser


if __name__ == "__main__":
    leave(main())
