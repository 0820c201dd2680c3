"""Table of the ten published settings, and of one step from 8 to 256 chips, by `plan`.

    pip install "targetsft-jax[tpu]"
    python perf/scaling_table.py --results scaling [--rows WORD …]

Every row is the whole train step of a shipped configuration (Target-SFT, AdamW in
float32, a bfloat16 teacher, remat full, 256 rows per step), compiled without the
devices, a minute or more each. The results are kept in a folder, so that an interrupted
table continues; rows of GPUs need the extra `gpu-plan`. Only `config.json` of the
models is read (configs/architectures).
"""

import argparse
import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parents[1] / "configs"
MATH, MEDICAL = "compare/paper_math", "compare/paper_medical"
SEVEN = "qwen2.5_7b_from_7b"
SMALL = "qwen2.5_math_1.5b_from_7b"
EXPERTS = "qwen3_1.7b_from_30b_a3b"


@dataclass(frozen=True)
class Row:
    """A program of the table.

    Attributes:
        settings: settings of a comparison that differ in their data only; or a shipped
            configuration.
        source: comparison that declares the settings; "" for a configuration.
        topology, slices: as in `plan`.
        overrides: keys that differ from the configuration's.
        store: contents of a teacher cache in place of the teacher; "": a live teacher.
    """

    settings: tuple[str, ...]
    source: str
    topology: str
    slices: int = 1
    overrides: tuple[str, ...] = ()
    store: str = ""

    @property
    def devices(self) -> int:
        """Number of devices of all slices."""
        return self.slices * math.prod(map(int, self.topology.split(":")[1].split("x")))

    @property
    def hardware(self) -> str:
        """Topology, with the number of slices if there are several."""
        return f"{self.slices} x {self.topology}" if self.slices > 1 else self.topology

    @property
    def title(self) -> str:
        """Settings and the keys that differ, but for what another column has."""
        keys = dict(zip(self.overrides[::2], self.overrides[1::2]))
        keys.pop("--train.accumulation_steps", None)
        if "--student.path" in keys:
            keys["--student.path"] = keys["--student.path"].split("/")[-1]
        shown = [f"{key.removeprefix('--')} {value}" for key, value in keys.items()]
        shown += [f"stored {self.store}"] if self.store else []
        return ", ".join([*self.settings, *shown])

    @property
    def file(self) -> str:
        """Name of the file with the results of this row."""
        parts = [self.settings[0], self.hardware, *self.overrides]
        parts += [self.store] if self.store else []
        return re.sub(r"[:/]", "-", "_".join(parts)).replace(" ", "") + ".json"


def _steps(count: int) -> tuple[str, ...]:
    return ("--train.accumulation_steps", str(count))


def _taught_by_experts() -> Iterator[Row]:
    """Rows of a mixture of experts as the teacher, live and stored."""
    large = ("--student.path", "Qwen/Qwen3-4B")
    for student, topology in itertools.product(((), large), ("v6e:4x4", "v5p:2x2x2")):
        overrides = (*_steps(8), *student)
        yield Row((EXPERTS,), "", topology, 1, overrides)
        yield Row((EXPERTS,), "", topology, 1, overrides, store="top_k")


LONG = ("--data.max_length", "32768", "--train.batch_size", "8", *_steps(1))
ROWS = (
    Row(("numina_qwen3_1.7b", "openr1_qwen3_1.7b"), MATH, "v5e:4x4"),
    Row(("numina_qwen2.5_math_1.5b", "openr1_qwen2.5_math_1.5b"), MATH, "v5e:2x4"),
    Row(("numina_qwen2.5_math_7b", "openr1_qwen2.5_math_7b"), MATH, "v5e:4x4"),
    Row(("llama3.2_3b",), MEDICAL, "v5e:4x4", 1, _steps(4)),
    Row(("llama3.1_8b",), MEDICAL, "v5e:4x4", 1, _steps(4)),
    Row(("qwen2.5_1.5b",), MEDICAL, "v5e:2x4", 1, _steps(8)),
    Row(("qwen2.5_7b",), MEDICAL, "v5e:4x4", 1, _steps(4)),
    Row((SEVEN,), "", "v6e:2x4"),
    Row((SEVEN,), "", "v5e:4x4"),
    Row((SEVEN,), "", "v5e:4x8"),
    Row((SEVEN,), "", "v5e:8x8"),
    Row((SEVEN,), "", "v5e:8x8", 2),
    Row((SEVEN,), "", "v5e:8x16"),
    Row((SEVEN,), "", "v5e:16x16"),
    Row((SEVEN,), "", "h100:8"),
    Row((SEVEN,), "", "h200:8"),
    Row((SEVEN,), "", "b200:8"),
    Row((SEVEN,), "", "h200:8", 1, (*LONG, "--train.attention", "cudnn")),
    Row((SEVEN,), "", "h200:8", 1, (*LONG, "--train.attention", "cudnn_packed")),
    *_taught_by_experts(),
    Row((SMALL,), "", "v5e:2x4"),
    *(
        Row((name,), "", topology, store=store)
        for name, topology in ((SEVEN, "v5e:4x4"), (SMALL, "v5e:2x4"))
        for store in ("top_k", "hidden_states")
    ),
)


def main() -> None:
    """Compile the rows without results, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    folder, words = "folder of the results (scaling)", "only rows with one of the words"
    parser.add_argument("--results", type=Path, default=Path("scaling"), help=folder)
    parser.add_argument("--rows", nargs="+", default=[""], metavar="WORD", help=words)
    options = parser.parse_args()

    from targetsft_jax.planning.topology import prepare_jax

    prepare_jax("v5e:4x4")
    options.results.mkdir(parents=True, exist_ok=True)
    print("\n".join(HEAD))
    for row in ROWS:
        if any(word in f"{row.title} {row.hardware}" for word in options.rows):
            print(line(row, result(row, options.results)), flush=True)


def result(row: Row, folder: Path) -> dict[str, Any]:
    """Numbers of a row's plan, of the folder or compiled now."""
    path = folder / row.file
    if not path.exists():
        from targetsft_jax.planning.plan import make_plan
        from targetsft_jax.planning.planned_teacher import Store
        from targetsft_jax.planning.rendering import as_json
        from targetsft_jax.planning.topology import get_topology

        topology = get_topology(row.topology, row.slices)
        plan = make_plan(config_of(row), topology, store=Store(row.store or None))
        path.write_text(json.dumps(as_json(plan), indent=2), "utf-8")
    return json.loads(path.read_text("utf-8"))


def config_of(row: Row) -> Any:
    """Configuration of a row, of its first setting.

    If the row does not specify the micro-batches: one row of tokens per chip in each;
    on fewer than 16 chips the 16 micro-batches of the configuration have several.
    """
    from targetsft_jax.config.load import load
    from targetsft_jax.experiments import grid
    from targetsft_jax.experiments.declaration import read_comparison

    steps = min(16, 256 // row.devices)
    overrides = [*_steps(steps), *row.overrides]
    if row.slices > 1:
        # Parameters are sharded within a slice; slices differ in their rows only.
        overrides += ["--mesh.data", str(row.slices), "--mesh.fsdp", "-1"]
    if row.source:
        entries = grid.entries(read_comparison(row.source, {}), overrides)
        config = next(
            entry.config
            for entry in entries
            if entry.setting == row.settings[0]
            and entry.config.target.name == "target_sft"
        )
    else:
        if row.store:
            # It does not exist: only its shapes matter.
            overrides += ["--teacher.cache", "unmade"]
        config = load(["--config", row.settings[0], *overrides])
    return with_architectures(config)


def with_architectures(config: Any) -> Any:
    """The configuration with local architectures in place of its hub models.

    An instruct model has the architecture of its base.
    """

    def local(hub_id: str) -> str:
        name = hub_id.split("/")[-1].lower().removesuffix("-instruct")
        return str(CONFIGS / "architectures" / name)

    return replace(
        config,
        student=replace(config.student, path=local(config.student.path)),
        teacher=replace(config.teacher, path=local(config.teacher.path)),
    )


_COLUMNS = (
    "step",
    "devices",
    "micro-batches",
    "peak GiB",
    "to spare",
    "tokens/s ≤",
    "MFU ≤",
    "bound by",
    "gathers GB",
    "scatters",
    "all-reduces",
    "others",
    "between slices",
)
HEAD = (f"| {' | '.join(_COLUMNS)} |", "|---|---|" + (len(_COLUMNS) - 2) * "---:|")
_SHOWN = {"all-gather": 0, "reduce-scatter": 1, "all-reduce": 2}


def line(row: Row, numbers: dict[str, Any]) -> str:
    """Line of the table, in Markdown."""
    return f"| {' | '.join([row.title, row.hardware, *_cells(row, numbers)])} |"


def _cells(row: Row, numbers: dict[str, Any]) -> Iterator[str]:
    gib, bounds = numbers["gib_per_device"], numbers["roofline_seconds"]
    yield str(config_of(row).train.accumulation_steps)
    yield f"{gib['needed']:.2f}"
    yield f"{gib['capacity'] - gib['needed']:.2f}"
    if bounds is None:
        yield from ("–", "–", "–")
    else:
        yield f"{numbers['tokens_per_step'] / bounds['step']:,.0f}"
        yield f"{numbers['mfu_bound']:.0%}".replace("%", " %")
        limit = max((k for k in bounds if k != "step"), key=lambda k: bounds[k])
        yield limit.upper() if limit != "compute" else limit
    sent = [0.0] * 4
    between = 0.0
    for kind, traffic in numbers["collectives_per_device_and_step"].items():
        sent[_SHOWN.get(kind, 3)] += (traffic["bytes"] - traffic["dcn_bytes"]) / 1e9
        between += traffic["dcn_bytes"] / 1e9
    yield from (f"{each:.1f}" for each in sent)
    yield f"{between:.2f}" if row.slices > 1 else ""


if __name__ == "__main__":
    main()
