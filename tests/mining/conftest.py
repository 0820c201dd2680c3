"""A mining of a scripted solver, without a model."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from targetsft_jax.data.chat import encode_prompt
from targetsft_jax.data.config import SyntheticConfig
from targetsft_jax.data.records import problems
from targetsft_jax.mining import run
from targetsft_jax.mining.session import Session
from targetsft_jax.mining.settings import MiningSettings

from .solver import TOKENIZER, Solver


@pytest.fixture
def mining(tmp_path, monkeypatch):
    """Function that mines the answers of a solver to the first additions.

    It returns the files by their suffix, and the solver.
    """

    def start(solver: Solver | None = None, name: str = "mined", **changes):
        solver = solver or Solver()
        options = {"max_new_tokens": 48, "batch_size": 64, "limit": 6} | changes
        identity = options.pop("identity", {"rule": options.get("rule", "all")})
        settings = MiningSettings(**options)
        selection = problems(SyntheticConfig(), "heldout", settings.limit)
        prompts = [encode_prompt(p.messages, TOKENIZER).tolist() for p in selection]
        session = Session(
            solver, TOKENIZER, selection, prompts, 4096, identity, Path("m"), True
        )
        monkeypatch.setattr(run, "open_session", lambda *_: session)
        out = tmp_path / f"{name}.jsonl"
        run.mine(None, "m", out, settings)
        return SimpleNamespace(
            solver=solver,
            rows=out,
            outcomes=out.with_name(f"{out.name}.outcomes.jsonl"),
        )

    return start
