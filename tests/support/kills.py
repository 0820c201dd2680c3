"""Repeated SIGKILLs of one run, compared with an undisturbed run.

    python -m tests.support.kills --kills 100

Each kill comes at a random moment of start-up, of training, or of a save. Between
sessions the newest checkpoint is sometimes damaged. In the end, losses and weights are
compared with those of an undisturbed run.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"

from . import launched

STEPS_PER_KILL, SAVE_EVERY = 4, 3
_PRELOADED = [
    "targetsft_jax.training.run",
    "transformers.models.auto.tokenization_auto",
    "yaml",
    "grain",
    "tensorboardX",
]


@dataclass
class Outcome:
    """Counts of kills and damages, and the comparison with the undisturbed run.

    Attributes:
        kills: kills by intended moment.
        during_saves: kills that left a checkpoint half-written.
        steps: last logged step at each kill.
        resumed: step that each session resumed from.
        damages: damaged checkpoints by kind of damage.
        losses_equal, weights_equal: equality with the undisturbed run, bit for bit.
        seconds: wall time.
    """

    kills: Counter = field(default_factory=Counter)
    during_saves: int = 0
    steps: list[int] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    damages: Counter = field(default_factory=Counter)
    losses_equal: bool = False
    weights_equal: bool = False
    seconds: float = 0.0


def disturb(folder: Path, kills: int, seed: int = 0) -> Outcome:
    """Train once undisturbed and once with `kills` kills, in a folder."""
    # Not at the top: sessions import this module before they may touch a device.
    from . import rig

    start = time.monotonic()
    rng, outcome = random.Random(seed), Outcome()
    models = rig.write_folders(folder / "models")
    # A fork server with all modules loaded, so that sessions start quickly.
    os.environ.update(launched.environment(folder / "compiled"))
    os.environ.pop("XLA_FLAGS", None)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    steps = STEPS_PER_KILL * kills + SAVE_EVERY

    def session(name: str) -> multiprocessing.Process:
        settings = {"train__steps": steps, "train__save_every": SAVE_EVERY}
        settings |= {"target__name": "sft", "mesh__cpu_devices": 1}
        settings |= {"train__log_every": 10**6, "data__max_length": 32}
        settings |= {"data__max_dropped": 1}  # All examples are longer.
        arguments = rig.small_run(models, folder / name, **settings)
        arguments += ["--data.overlong", "truncate"]
        process = context.Process(target=_session, args=(arguments, folder / "output"))
        process.start()
        return process

    undisturbed = session("undisturbed")
    undisturbed.join(300)
    assert undisturbed.exitcode == 0, (folder / "output").read_text()
    run_dir = folder / "run"
    for number in range(kills):
        _damage(run_dir, rng, outcome)
        (folder / "output").unlink(missing_ok=True)
        before = _half_written(run_dir)
        process = session("run")
        kind = rng.choice(("training", "training", "saving", "saving", "starting"))
        if kind == "starting":
            time.sleep(rng.uniform(0, 2))
        else:
            _wait(
                run_dir, process, STEPS_PER_KILL * number + 1, saving=kind == "saving"
            )
            time.sleep(rng.uniform(0, 0.02 if kind == "saving" else 0.1))
        assert process.is_alive(), (folder / "output").read_text()
        process.kill()
        process.join()
        outcome.kills[kind] += 1
        outcome.during_saves += bool(_half_written(run_dir) - before)
        outcome.steps.append(_step(run_dir))
        _resumed(folder / "output", outcome)
    last = session("run")
    last.join(300)
    assert last.exitcode == 0, (folder / "output").read_text()
    _resumed(folder / "output", outcome)
    killed, undisturbed = (
        rig.untimed(rig.metrics_of(folder / name)) for name in ("run", "undisturbed")
    )
    outcome.losses_equal = killed == undisturbed and len(killed) == steps
    killed, undisturbed = (
        (folder / name / "hf/model.safetensors").read_bytes()
        for name in ("run", "undisturbed")
    )
    outcome.weights_equal = killed == undisturbed
    outcome.seconds = time.monotonic() - start
    return outcome


def _session(arguments: list[str], output: Path) -> None:
    """Train in the process to be killed, with its output in the file `output`."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from targetsft_jax.train import main

    sys.exit(main(arguments))


def _wait(run_dir: Path, process, step: int, *, saving: bool) -> None:
    """Wait for a logged step and, if `saving`, for the start of a save."""
    deadline = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < deadline:
        if _step(run_dir) >= step and (
            not saving or any(run_dir.glob("checkpoints/*tmp*"))
        ):
            return
        time.sleep(0.001)


def _half_written(run_dir: Path) -> set[tuple[str, int]]:
    """Checkpoints under their temporary names."""
    paths = run_dir.glob("checkpoints/*tmp*")
    return {(path.name, path.stat().st_ino) for path in paths}


def _step(run_dir: Path) -> int:
    """Last step with a complete line in metrics.jsonl."""
    try:
        lines = (run_dir / "metrics.jsonl").read_text().splitlines()[-2:]
    except FileNotFoundError:
        return 0
    for line in reversed(lines):
        try:
            return json.loads(line)["step"]
        except ValueError:
            continue
    return 0


def _resumed(output: Path, outcome: Outcome) -> None:
    text = output.read_text() if output.exists() else ""
    outcome.resumed += map(int, re.findall(r"from the checkpoint of step (\d+)", text))


def _damage(run_dir: Path, rng: random.Random, outcome: Outcome) -> None:
    """Sometimes damage the newest checkpoint, if an older one exists."""
    complete = [p for p in run_dir.glob("checkpoints/*") if p.name.isdecimal()]
    if len(complete) < 2 or rng.random() < 0.6:
        return
    newest = max(complete, key=lambda path: int(path.name))
    files = [path for path in newest.rglob("d/*") if path.stat().st_size > 64]
    path = rng.choice(files)
    kind = rng.choice(("truncated", "deleted", "flipped"))
    if kind == "deleted":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
    else:
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    outcome.damages[kind] += 1


def main() -> int:
    """Print the counts; 0 if losses and weights equal the undisturbed run's."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = disturb(Path(folder), arguments.kills, arguments.seed)
    print(f"kills           {sum(outcome.kills.values())}: {dict(outcome.kills)}")
    print(f"during a save   {outcome.during_saves}")
    print(f"at steps        {outcome.steps}")
    print(f"resumed from    {outcome.resumed}")
    print(f"damaged between {dict(outcome.damages)}")
    print(f"losses equal    {outcome.losses_equal}")
    print(f"weights equal   {outcome.weights_equal}")
    print(f"seconds         {outcome.seconds:.0f}")
    return 0 if outcome.losses_equal and outcome.weights_equal else 1


if __name__ == "__main__":
    sys.exit(main())
