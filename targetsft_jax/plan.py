"""Plan a run: `python -m targetsft_jax.plan --config FILE --topology v5e:4x4`."""

from collections.abc import Sequence

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.cli.plan_arguments import add_plan_arguments, check_plan_arguments
from targetsft_jax.command import DOES_NOT_FIT, DONE, leave, run_command
from targetsft_jax.config.load import load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; DOES_NOT_FIT is 3."""
    return run_command(_plan, arguments)


def _plan(arguments: list[str]) -> int:
    options, config_arguments = parser().parse_known_args(arguments)
    check_plan_arguments(options)
    config = load(config_arguments)
    from targetsft_jax.planning.topology import get_topology, prepare_jax

    prepare_jax(options.topology)
    topology = get_topology(options.topology, options.num_slices)
    if options.search:
        from targetsft_jax.planning.search_report import search_and_print

        return search_and_print(config, topology, options)
    from targetsft_jax.planning.plan import Store, make_plan
    from targetsft_jax.planning.rendering import lines, write_json

    store = Store(options.store, options.k)
    plan = make_plan(config, topology, options.capacity, store)
    print("\n".join(lines(plan)))
    if options.json is not None:
        write_json(plan, options.json)
    return DONE if plan.memory.fits else DOES_NOT_FIT


def parser() -> CommandParser:
    """Arguments of the command; all other ones are keys of the configuration."""
    parser = CommandParser(
        "plan",
        "--config FILE --topology T [--search] [--KEY VALUE …]",
        "Compile a run's train step for devices that may be absent, and report "
        "memory, FLOPs and collective traffic per device, or search for the fastest "
        "keys that fit. No weights and no data are read.",
        examples=(
            "targetsft plan --config quickstart --topology v5e:2x2",
            "targetsft plan --config m23k --topology v5e:2x4 --search --write b.yaml",
        ),
        run_keys=True,
        epilog="Exit codes: 0 the step fits; 1 failed; 2 invalid arguments or "
        "configuration; 3 the step does not fit, or none that the search found.",
    )
    add_plan_arguments(parser)
    return parser


if __name__ == "__main__":
    leave(main())
