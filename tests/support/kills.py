"""One run killed again and again until it is through, and what came of it.

    python -m tests.support.kills --kills 100

Kills are SIGKILL: at a random moment of training, of starting, or while a checkpoint
is being written. Between sessions the newest checkpoint is damaged now and then. In the
end losses and weights are held to those of a run that nobody disturbed.
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

STEPS_A_KILL, SAVE_EVERY = 4, 3
_IMPORTED = [
    "targetsft_jax.training.run",
    "transformers.models.auto.tokenization_auto",
    "jsonargparse",
    "grain",
    "tensorboardX",
]


@dataclass
class Outcome:
    """What was done to a run.

    Attributes:
        kills: by the moment that was aimed at.
        during_saves: kills that left a checkpoint half written.
        steps: the last step written down at each kill.
        resumed: the step that each session went on from.
        damages: by kind.
        losses_equal, weights_equal: to the undisturbed run's, bit for bit.
        seconds: of everything.
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
    """Train once in peace and once with so many kills, in a folder."""
    # Not at the top: sessions import this module, and may not touch a device so early.
    from . import rig

    began = time.monotonic()
    rng, outcome = random.Random(seed), Outcome()
    models = rig.write_folders(folder / "models")
    # A server that has imported everything, and forks: a session starts in no time.
    os.environ.update(launched.environment(folder / "compiled"))
    os.environ.pop("XLA_FLAGS", None)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    steps = STEPS_A_KILL * kills + SAVE_EVERY

    def session(name: str) -> multiprocessing.Process:
        settings = {"train__steps": steps, "train__save_every": SAVE_EVERY}
        settings |= {"target__name": "sft", "mesh__cpu_devices": 1}
        settings |= {"train__log_every": 10**6, "data__max_length": 32}
        arguments = rig.small_run(models, folder / name, **settings)
        arguments += ["--data.overlong", "truncate"]
        process = context.Process(target=_session, args=(arguments, folder / "said"))
        process.start()
        return process

    quiet = session("quiet")
    quiet.join(300)
    assert quiet.exitcode == 0, (folder / "said").read_text()
    run_dir = folder / "run"
    for number in range(kills):
        _damage(run_dir, rng, outcome)
        (folder / "said").unlink(missing_ok=True)
        before = _half_written(run_dir)
        process = session("run")
        kind = rng.choice(("training", "training", "saving", "saving", "starting"))
        if kind == "starting":
            time.sleep(rng.uniform(0, 2))
        else:
            _wait(run_dir, process, STEPS_A_KILL * number + 1, saving=kind == "saving")
            time.sleep(rng.uniform(0, 0.02 if kind == "saving" else 0.1))
        assert process.is_alive(), (folder / "said").read_text()
        process.kill()
        process.join()
        outcome.kills[kind] += 1
        outcome.during_saves += bool(_half_written(run_dir) - before)
        outcome.steps.append(_step(run_dir))
        _resumed(folder / "said", outcome)
    last = session("run")
    last.join(300)
    assert last.exitcode == 0, (folder / "said").read_text()
    _resumed(folder / "said", outcome)
    one, other = (
        rig.untimed(rig.metrics_of(folder / name)) for name in ("run", "quiet")
    )
    outcome.losses_equal = one == other and len(one) == steps
    one, other = (
        (folder / name / "hf/model.safetensors").read_bytes()
        for name in ("run", "quiet")
    )
    outcome.weights_equal = one == other
    outcome.seconds = time.monotonic() - began
    return outcome


def _session(arguments: list[str], said: Path) -> None:
    """In the process that is killed."""
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from targetsft_jax.train import main

    sys.exit(main(arguments))


def _wait(run_dir: Path, process, step: int, *, saving: bool) -> None:
    """Until so many steps are written down, and then until a checkpoint is begun."""
    until = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < until:
        if _step(run_dir) >= step and (
            not saving or any(run_dir.glob("checkpoints/*tmp*"))
        ):
            return
        time.sleep(0.001)


def _half_written(run_dir: Path) -> set[tuple[str, int]]:
    """Checkpoints under their temporary names."""
    found = run_dir.glob("checkpoints/*tmp*")
    return {(path.name, path.stat().st_ino) for path in found}


def _step(run_dir: Path) -> int:
    """The last step whose line is whole."""
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


def _resumed(said: Path, outcome: Outcome) -> None:
    text = said.read_text() if said.exists() else ""
    outcome.resumed += map(int, re.findall(r"from the checkpoint of step (\d+)", text))


def _damage(run_dir: Path, rng: random.Random, outcome: Outcome) -> None:
    """The newest checkpoint now and then, where there is another to go on from."""
    whole = [p for p in run_dir.glob("checkpoints/*") if p.name.isdecimal()]
    if len(whole) < 2 or rng.random() < 0.6:
        return
    newest = max(whole, key=lambda path: int(path.name))
    files = [path for path in newest.rglob("d/*") if path.stat().st_size > 64]
    path = rng.choice(files)
    kind = rng.choice(("truncated", "deleted", "flipped"))
    if kind == "deleted":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
    else:
        spoilt = bytearray(path.read_bytes())
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
        path.write_bytes(spoilt)
    outcome.damages[kind] += 1


def main() -> int:
    """Print the counts; 0 where the run came out as the undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = disturb(Path(folder), asked.kills, asked.seed)
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
