"""Batches of a stream by number and size."""

from targetsft_jax.data.batches import batches


def test_batches_end_at_their_number_or_size():
    texts = ["a"] * 5 + ["b" * 9, "c", "d" * 4, "e" * 4, "f"]
    parts = list(batches(iter(texts), 3, len, 8))
    assert parts == [["a"] * 3, ["a", "a", "b" * 9], ["c", "d" * 4, "e" * 4], ["f"]]
    assert list(batches([], 3, len, 8)) == []
