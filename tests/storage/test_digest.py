"""Digests against SHA-256 of the written-out text."""

import hashlib

from targetsft_jax.storage.digest import json_digest, text_digest


def test_digests_are_the_first_digits_of_sha_256():
    expected = hashlib.sha256("π".encode()).hexdigest()[:16]
    assert text_digest("π") == expected


def test_order_of_keys_does_not_matter_but_order_of_items_does():
    written = hashlib.sha256(b'{"a": 1, "b": [2, 3]}').hexdigest()[:16]
    assert json_digest({"b": [2, 3], "a": 1}) == written
    assert json_digest({"b": [3, 2], "a": 1}) != written
