"""Configuration keys: errors, help and resumability from one declaration."""

import dataclasses
import math
import re

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


@section
class Wide:
    """Keys without a domain, and with a wide one."""

    name: str = key("x", "Some name.")
    names: list[str] = key(list, "Some names.")
    weights: dict[str, float] = key(dict, "Some weights.")
    template: str = key("{x}", "Some template.", Domain("a template", lambda _: True))
    wide: int = key(0, "Some seed.", Domain("0 to 2^40", lambda _: True, 2**40))
    free: str | None = key(None, "Some text or null.")


@pytest.mark.parametrize(
    "config, expected",
    [
        (Outer(count=2**31), "count is 2147483648; expected 1 or more, at most 214748"),
        (Outer(limit=1e300), "limit is 1e.300; expected a number more than 0, at most"),
        (Outer(limit=1e-300), "limit is 1e-300; .*0 or at least 1.2e-38 in magnitude"),
        (Wide(name=""), "name is ''; expected a text in UTF-8 that is not blank"),
        (Wide(name="a\nb"), "name is .*on one line"),
        (Wide(name="a\0"), "name is .*on one line"),
        (Wide(name="\ud800"), "name is .*UTF-8"),
        (Wide(name="y" * 5000), "name is 'y+….*at most 4096 characters"),
        (Wide(name=None), "name is None; expected a value"),  # type: ignore[arg-type]
        (Wide(names=["x", " "]), r"names\[1\] is ' '; expected a text"),
        (Wide(weights={"a": math.nan}), "weights.a is nan; expected a finite number"),
        (Wide(weights={"\ud800": 1.0}), "key of weights is"),
        (Wide(template="\0"), "template is .*without NUL"),
        (Wide(wide=2**41), "wide is 2199023255552; expected 0 to 2"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_values_that_no_key_may_have(config, expected):
    (refusal,) = refusals(config)
    assert re.match(expected, refusal), refusal


def test_values_of_wide_domains_and_templates_are_accepted():
    assert not list(refusals(Wide(template="a\nb", wide=2**39, names=["é x"])))


def test_bounds_are_part_of_the_domain():
    assert at_least(1, 2**20).expected == "1 or more, at most 1,048,576"
    assert not at_least(1, 10).accepts(11) and more_than(0, 10).accepts(10)
    assert not more_than(0, 10).accepts(11)
