"""Table of inputs: one line suffices for a new column of the data."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax import METHODS, fused_loss
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.record import to_record
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.token_cache import CacheFolders
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.keys import at_least
from targetsft_jax.targets import Method, QTarget, inputs
from targetsft_jax.targets.inputs import INPUTS, Input

QA = FieldMap(prompt="q", response="a")


def _weigh(rows, *, patience):
    return QTarget(patience)


def _config(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return DataConfig(source="jsonl", path=str(path), fields=QA, max_length=32)


@pytest.mark.parametrize("value", [0.25, [0.5, 0.0, 2.0]])
def test_a_new_column_travels_from_a_row_to_the_method(value, tmp_path, monkeypatch):
    new = Input("patience", "token", at_least(0))
    monkeypatch.setitem(inputs._TABLE, new.name, new)
    # Trained: two letters and the end of the turn.
    row = {"q": "é", "a": "xy", "patience": value}
    config = _config(tmp_path / "rows.jsonl", [row])
    dataset = prepare(config, byte_tokenizer()).train
    batch = dataset.take(np.arange(1))
    trained = batch["loss_mask"].astype(bool)
    np.testing.assert_array_equal(
        batch["patience"][trained], np.broadcast_to(value, 3).astype("f4")
    )
    hidden = jnp.ones((*trained.shape, 4))
    _, metrics = fused_loss(
        Method(_weigh, needs=("patience",)),
        hidden,
        jnp.ones((260, 4)),
        batch["labels"],
        weights=trained / 3,
        patience=batch["patience"],
    )
    np.testing.assert_allclose(metrics["gamma"], np.mean(value), rtol=1e-6)


def test_a_new_column_is_not_read_from_an_old_cache(tmp_path, monkeypatch):
    """Otherwise its method would be refused although the file has the column."""
    config = _config(tmp_path / "rows.jsonl", [{"q": "a", "a": "b"}])
    arguments = (config, byte_tokenizer(), "content", tmp_path)
    before = CacheFolders.of(*arguments)
    monkeypatch.setitem(inputs._TABLE, "patience", Input("patience", "token"))
    after = CacheFolders.of(*arguments)
    assert before.tokens != after.tokens and before.rows != after.rows


def test_a_column_without_a_line_is_left_in_the_row():
    row = {"q": "a", "a": "b", "patience": 1.0}
    assert to_record(row, QA, "f:1").columns == {}


def test_a_domain_refuses_and_its_absence_accepts_any_number(monkeypatch):
    row = {"q": "a", "a": "b", "patience": -1.0}
    monkeypatch.setitem(inputs._TABLE, "patience", Input("patience", "token"))
    assert to_record(row, QA, "f:1").columns == {"patience": -1.0}
    with pytest.raises(RowError, match="patience is 'much'; expected a number$"):
        to_record({**row, "patience": "much"}, QA, "f:1")
    new = Input("patience", "token", at_least(0))
    monkeypatch.setitem(inputs._TABLE, "patience", new)
    with pytest.raises(RowError, match="patience is -1.0.*a number, 0 or more"):
        to_record(row, QA, "f:1")


def test_a_column_per_example_has_one_number():
    row = {"q": "a", "a": "b", "trajectory_weight": [1.0, 2.0]}
    with pytest.raises(RowError, match="trajectory_weight is \\[1.0, 2.0\\]"):
        to_record(row, QA, "f:1")


def test_every_input_of_a_method_has_a_line():
    for name, method in METHODS.items():
        assert set(method.inputs(**method.defaults)) <= set(INPUTS), name
    for name, each in INPUTS.items():
        assert name == each.name
        assert (each.domain is None) == (each.per == "model")
        assert not each.policy_sources or "data" in each.policy_sources
