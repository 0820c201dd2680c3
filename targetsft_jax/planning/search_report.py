"""Report of a search: a table of the compiled candidates, JSON, and a configuration."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from targetsft_jax import command
from targetsft_jax.config.load import changed_keys, load
from targetsft_jax.config.schema import Config
from targetsft_jax.planning.candidates import Candidate
from targetsft_jax.planning.outcome import Outcome
from targetsft_jax.planning.search import Search, search
from targetsft_jax.planning.topology import Topology
from targetsft_jax.storage import atomic, yaml_file

_HEADER = (
    f"{'':4} {'data x fsdp x context x tensor':<31}{'micro':>6} {'remat':<16}"
    f"{'group':<6}{'kernel':<7}{'GiB':>6}{'s':>8}{'MFU':>5}  limit"
)


def search_and_print(
    config: Config, topology: Topology, options: argparse.Namespace
) -> int:
    """Search, print the report, write the requested files; return the exit code.

    Args:
        config, topology: see `search`.
        options: arguments of the command `plan`.
    """
    print(f"{topology.name}: compiling candidates, {options.budget} at most")
    print(_HEADER, flush=True)
    result = search(
        config,
        topology,
        options.budget,
        options.capacity,
        options.jobs,
        report=lambda each: print(_row("", each), flush=True),
    )
    print("\n".join(lines(result)))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(options.json, json.dumps(as_json(result), indent=2) + "\n")
    if options.write is not None and result.best is not None:
        write_config(result, options.write)
        print(f"wrote {options.write}: targetsft train --config {options.write}")
    return command.DOES_NOT_FIT if result.best is None else command.DONE


def lines(result: Search) -> Iterator[str]:
    """Yield the lines of the report, at most 100 columns wide."""
    yield ""
    yield (
        f"{result.considered:,} candidates, {result.too_large:,} too large by "
        f"arithmetic, {len(result.outcomes)} compiled"
    )
    yield _HEADER
    for number, each in enumerate(result.outcomes, 1):
        yield _row(f"{number:>3}.", each)
    yield ""
    if result.left:
        yield f"{result.left:,} of the others could be faster: raise --budget"
    else:
        yield "none of the others could be faster: their products take as long"
    best = result.best
    if best is None:
        yield from _nothing_fits(result)
        return
    yield from _gain(result.configured, best)
    yield "best keys:"
    for key, value in best.candidate.keys().items():
        yield f"  --{key} {'null' if value is None else value}"


def as_json(result: Search) -> dict[str, Any]:
    """Return the outcomes with their keys, and the counts of the report."""
    return {
        "topology": result.topology.name,
        "considered": result.considered,
        "too_large": result.too_large,
        "left": result.left,
        "outcomes": [
            {
                **asdict(each),
                "candidate": each.candidate.keys(),
                "fits": each.fits,
                "limit": each.limit,
            }
            for each in result.outcomes
        ],
    }


def write_config(result: Search, path: Path) -> None:
    """Write the configuration with the best keys, and check that it loads.

    Raises:
        ConfigError: it does not load, which is a defect.
    """
    assert result.best is not None
    config = result.best.candidate.applied(result.config)
    text = (
        f"# Keys that `targetsft plan --search` found for {result.topology.name}.\n"
        + yaml_file.dump(changed_keys(config))
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, text)
    load(["--config", str(path)])


def _row(rank: str, each: Outcome) -> str:
    candidate = each.candidate
    seconds = f"{each.roofline.seconds:.3f}" if each.roofline else "-"
    mfu = f"{100 * each.mfu:.0f}%" if each.mfu is not None else "-"
    limit = each.limit + (", no spare" if each.fits and not each.has_spare else "")
    return (
        f"{rank:4} {_mesh(candidate):<31}{candidate.accumulation_steps:>6} "
        f"{candidate.remat:<16}{candidate.vocab_group or 'auto':<6}"
        f"{candidate.attention:<7}{each.needed:>6.2f}{seconds:>8}{mfu:>5}  {limit}"
    )


def _mesh(candidate: Candidate) -> str:
    return " x ".join(map(str, candidate.mesh))


def _gain(configured: Outcome | None, best: Outcome) -> Iterator[str]:
    if configured is None or not configured.fits:
        yield "the configuration's own keys do not fit, or no run accepts them"
    elif configured.roofline is not None and best.roofline is not None:
        before, after = configured.roofline.seconds, best.roofline.seconds
        yield (
            f"step time at least {after:.3f} s, {before:.3f} s as configured: "
            f"{100 * (before / after - 1):.1f} % more tokens/s at most"
        )


def _nothing_fits(result: Search) -> Iterator[str]:
    candidate, floor = result.smallest
    compiled = [each for each in result.outcomes if not each.error]
    needed = min((each.needed for each in compiled), default=floor)
    yield "nothing that was compiled fits. The least memory has"
    keys = {k: v for k, v in candidate.keys().items() if v is not None}
    yield "  " + " ".join(f"--{key} {value}" for key, value in list(keys.items())[:4])
    yield "  " + " ".join(f"--{key} {value}" for key, value in list(keys.items())[4:])
    yield (
        f"of which arguments, gradients and saved activations alone take {floor:.2f} "
        f"GiB per device; the least compiled needs {needed:.2f} GiB"
    )
    yield "what would fit: a larger topology, --student.dtype bfloat16 (half the bytes "
    yield "of the parameters), --lora.rank 16 (no moments of the base), or a shorter "
    yield "--data.max_length"
