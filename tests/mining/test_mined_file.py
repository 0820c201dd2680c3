"""Files of a mining: damage of a kill, and files of others."""

import json

import pytest

from targetsft_jax.command import UsageError
from targetsft_jax.mining.mined_file import open_mined
from targetsft_jax.storage.lock import LockedError

SETTINGS = {"model": "a", "alternatives": (2, 3), "data.path": None}
ROW = {"id": "b", "critical_mask": [1, 0]}
USED = {"id": "b", "outcome": "used", "tokens": 2, "critical": 1}
WRONG = {"id": "a", "outcome": "wrong"}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "out.jsonl"
    with open_mined(path, SETTINGS, {"model": "A"}) as file:
        file.add(WRONG, None)
        file.add(USED, ROW)
    return path


def outcomes(path):
    with open_mined(path, SETTINGS, {}) as file:
        return file.outcomes


def test_outcomes_are_read_back(path):
    assert outcomes(path) == {"a": WRONG, "b": USED}
    assert path.read_text() == json.dumps(ROW) + "\n"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param('{"id": "c", "critical_mask": [1]}\n', id="row without outcome"),
        pytest.param('{"id": "c", "criti', id="truncated row"),
        pytest.param(json.dumps(ROW) + "\n", id="row twice"),
        pytest.param("\x00\n[]\n", id="no row"),
    ],
)
def test_rows_of_a_kill_are_removed(path, damage):
    content = path.read_bytes()
    with path.open("a") as file:
        file.write(damage)
    assert outcomes(path) == {"a": WRONG, "b": USED}
    assert path.read_bytes() == content


def test_a_problem_whose_row_is_missing_is_examined_again(path):
    path.write_text("")
    assert outcomes(path) == {"a": WRONG}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", "b", 'model "a" \\(A\\); now it is "b" \\(B\\)'),
        ("alternatives", [2], r"alternatives \[2, 3\]; now it is \[2\]"),
        ("data.path", "x", 'data.path null; now it is "x"'),
        ("new", 1, "new null; now it is 1"),
    ],
)
def test_another_mining_is_refused_by_key(path, key, value, message):
    settings = SETTINGS | {key: value}
    with (
        pytest.raises(UsageError, match=message),
        open_mined(path, settings, {"model": "B"}),
    ):
        pass


def test_a_file_of_others_is_not_changed(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"q": 1}\n')
    with pytest.raises(UsageError, match="settings are unknown"):
        outcomes(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.jsonl"]
    assert path.read_text() == '{"q": 1}\n'


def test_settings_that_are_none_are_refused(path):
    path.with_name("out.jsonl.settings.json").write_text("{}")
    with pytest.raises(ValueError, match=r"out.jsonl.settings.json has no settings"):
        outcomes(path)


def test_two_minings_do_not_write_to_one_file(path):
    with open_mined(path, SETTINGS, {}), pytest.raises(LockedError, match="in use"):
        outcomes(path)
