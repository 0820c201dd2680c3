"""Problems of a session: those behind the skipped ones."""

import pytest
from support import rig

from targetsft_jax.config.load import load
from targetsft_jax.config.schema import ConfigError
from targetsft_jax.training.session import open_session


@pytest.fixture
def open_with(folders, tmp_path):
    def open_with(**evaluation):
        path = tmp_path / "problems.jsonl"
        path.write_text("\n".join(f'{{"q": "{n}+1?", "a": "{n}"}}' for n in range(5)))
        more = {
            "source": "jsonl",
            "path": path,
            "fields.prompt": "q",
            "fields.answer": "a",
        }
        keys = {f"evaluation__data__{key}": value for key, value in more.items()}
        keys |= {f"evaluation__{key}": value for key, value in evaluation.items()}
        return open_session(load(rig.small_run(folders, tmp_path / "run", **keys)))

    return open_with


def test_the_problems_are_those_behind_the_skipped_ones(open_with):
    session = open_with(problems=2, skip=2)
    assert [problem.answer for problem in session.problems] == ["2", "3"]
    assert [p.answer for p in open_with(problems=9, skip=4).problems] == ["4"]
    with pytest.raises(ConfigError, match="evaluation.skip is 5, and the source has"):
        open_with(problems=2, skip=5)
