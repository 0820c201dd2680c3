"""Configuration keys: errors, help and resumability from one declaration."""

import dataclasses
import math

import pytest

from targetsft_jax.keys import (
    Domain,
    at_least,
    between,
    key,
    more_than,
    one_of,
    refusals,
    resumable_keys,
    section,
)


@section
class Inner:
    """An inner section."""

    rate: float = key(0.5, "Some rate.", between(0, 1, closed="[)"))
    mode: str = key("a", "Some mode.", one_of(("a", "b")), resumable=True)


@section
class Outer:
    """An outer section."""

    count: int = key(3, "Some  count,\n with words.", at_least(1))
    limit: float | None = key(None, "Some limit.", more_than(0), resumable=True)
    names: list[str] = key(lambda: ["x"], "Some names.")
    inner: Inner = key(Inner, "A section.")
    optional: Inner | None = key(None, "A section or null.")
    several: list[Inner] = key(list, "Sections.")
    free: Inner = key(Inner, "A section.", resumable=True)


def test_every_instance_has_new_defaults():
    one, other = Outer(), Outer()
    assert (one.count, one.limit, one.names) == (3, None, ["x"])
    assert one.names is not other.names
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.count = 4


def test_help_is_one_line_per_key():
    """The docstring of a section lists its keys."""
    lines = (Outer.__doc__ or "").splitlines()
    assert lines[0] == "An outer section."
    assert "    count: Some count, with words. [1 or more]" in lines
    assert "    names: Some names." in lines


@pytest.mark.parametrize(
    "config, expected",
    [
        (Outer(), []),
        (Outer(count=0), ["count is 0; expected 1 or more"]),
        (Outer(limit=0.0), ["limit is 0.0; expected a number more than 0, or null"]),
        (
            Outer(limit=math.inf),
            ["limit is inf; expected a number more than 0, or null"],
        ),
        (Outer(count=None), ["count is None; expected 1 or more"]),  # type: ignore[arg-type]
        (
            Outer(inner=Inner(rate=1.0)),
            ["inner.rate is 1.0; expected a number in [0, 1)"],
        ),
        (
            Outer(inner=Inner(rate=math.nan)),
            ["inner.rate is nan; expected a number in [0, 1)"],
        ),
        (
            Outer(optional=Inner(mode="c")),
            ["optional.mode is 'c'; expected one of a, b"],
        ),
        (
            Outer(several=[Inner(), Inner(mode="c")]),
            ["several[1].mode is 'c'; expected one of a, b"],
        ),
    ],
)
def test_a_value_outside_its_domain_is_refused_by_path(config, expected):
    assert list(refusals(config)) == expected


@pytest.mark.parametrize(
    "domain, inside, outside",
    [
        (at_least(2), [2, 3.5], [1.9, -1]),
        (more_than(0), [1e-9], [0, -1]),
        (between(0, 1), [0, 1], [-0.1, 1.1]),
        (between(0, 1, closed="(]"), [0.1, 1], [0, 1.1]),
        (between(0, 1, closed="()"), [0.5], [0, 1]),
        (one_of(["x", "y"]), ["x"], ["z", ""]),
    ],
    ids=lambda value: value.expected if isinstance(value, Domain) else "",
)
def test_boundaries_of_domains(domain, inside, outside):
    assert [domain.refusal("k", value) for value in inside] == [None] * len(inside)
    for value in outside:
        assert (
            domain.refusal("k", value) == f"k is {value!r}; expected {domain.expected}"
        )


def test_resumable_keys_are_paths_and_a_section_covers_its_keys():
    assert list(resumable_keys(Outer)) == [
        "limit",
        "inner.mode",
        "optional.mode",
        "several.mode",
        "free",
    ]
