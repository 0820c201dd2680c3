"""Memory, traffic and compile time of 7B and 1.5B train steps on TPU slices.

    pip install "targetsft-jax[tpu]"
    python perf/step_tpu.py [--cases 1 2 …]

Compiled by the TPU compiler without a TPU, as `python -m targetsft_jax.plan` does: rows
of 4,096 tokens, or long rows that several devices share, float32 parameters and AdamW,
a bfloat16 teacher, remat full. Memory is in GiB per device, traffic in GB sent per
device per step.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True)
class Pair:
    """A configuration with local architectures in place of its hub models."""

    name: str
    config: str
    student: str
    teacher: str


SEVEN = Pair("7B<-7B", "qwen2.5_7b_from_7b.yaml", "qwen2.5-7b", "qwen2.5-7b")
SMALL = Pair(
    "1.5B<-7B",
    "qwen2.5_math_1.5b_from_7b.yaml",
    "qwen2.5-math-1.5b",
    "qwen2.5-math-7b",
)


@dataclass(frozen=True)
class Case:
    """A compiled step.

    Attributes:
        pair, topology: models and devices.
        rows: rows per optimizer step, in `micro` micro-batches.
        length: tokens per row.
        context: devices that share a row.
    """

    pair: Pair
    topology: str
    rows: int
    micro: int = 1
    length: int = 4096
    context: int = 1


CASES = (
    Case(SEVEN, "v5e:4x4", 16),
    Case(SEVEN, "v5e:4x4", 256, 16),
    Case(SEVEN, "v5e:8x8", 64),
    Case(SEVEN, "v5e:16x16", 256),
    Case(SEVEN, "v6e:4x8", 32),
    Case(SMALL, "v5e:2x4", 16),
    Case(SEVEN, "v5e:8x8", 64, length=32_768),
    Case(SEVEN, "v5e:8x8", 8, length=32_768, context=8),
    Case(SEVEN, "v5e:8x8", 2, length=131_072, context=32),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    numbers = range(1, len(CASES) + 1)
    parser.add_argument(
        "--cases",
        type=int,
        nargs="+",
        default=list(numbers),
        choices=numbers,
        help="rows of the table (default: all)",
    )
    options = parser.parse_args()

    from targetsft_jax.planning.topology import prepare_jax

    prepare_jax("v5e:4x4")
    from targetsft_jax.planning.hlo import KINDS

    print(
        f"{'step':<12}{'topology':<11}{'tokens':>8}{'context':>8}{'rows':>5}"
        f"{'micro':>6}{'args':>7}{'peak':>7}"
        f"{'spare':>7}{'compile s':>10}{'MFU <=':>8}  GB sent: total, "
        + ", ".join(KINDS)
    )
    for number in options.cases:
        print(_row(CASES[number - 1]), flush=True)


def _row(case: Case) -> str:
    from targetsft_jax.config.load import load
    from targetsft_jax.planning.hlo import KINDS
    from targetsft_jax.planning.plan import make_plan
    from targetsft_jax.planning.topology import get_topology

    pair, architectures = case.pair, CONFIGS / "architectures"
    config = load(
        [
            *("--config", str(CONFIGS / pair.config)),
            *("--student.path", str(architectures / pair.student)),
            *("--teacher.path", str(architectures / pair.teacher)),
            *("--data.max_length", str(case.length)),
            *("--mesh.context", str(case.context)),
            *("--train.batch_size", str(case.rows)),
            *("--train.accumulation_steps", str(case.micro)),
        ]
    )
    plan = make_plan(config, get_topology(case.topology))
    memory = plan.memory
    traffic = {} if plan.cost is None else plan.cost.traffic
    sent = {kind: each.bytes / 1e9 for kind, each in traffic.items()}
    spare = (memory.capacity or 0) - memory.needed
    return (
        f"{pair.name:<12}{case.topology:<11}{case.length:>8,}{case.context:>8}"
        f"{case.rows:>5}{case.micro:>6}"
        f"{memory.arguments:>7.2f}{memory.needed:>7.2f}{spare:>7.2f}"
        f"{plan.compile_seconds:>10.0f}{plan.mfu_bound or 0:>8.0%}"
        f"  {sum(sent.values()):.1f}: "
        + ", ".join(f"{sent.get(kind, 0):.1f}" for kind in KINDS)
    )


if __name__ == "__main__":
    main()
