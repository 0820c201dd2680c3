"""Layers with a window or a rotation, from a config.json without `layer_types`."""

from collections.abc import Mapping
from typing import Any


def all_layers(raw: Mapping[str, Any]) -> list[bool]:
    """A window in every layer, for families whose config.json has no `layer_types`."""
    return [True] * raw["num_hidden_layers"]


def from_max_window_layers(raw: Mapping[str, Any]) -> list[bool]:
    """A window from the layer `max_window_layers` on."""
    return [n >= raw["max_window_layers"] for n in range(raw["num_hidden_layers"])]


def if_there_is_a_window(raw: Mapping[str, Any]) -> list[bool]:
    """A window in every layer, unless it is null."""
    return [raw["sliding_window"] is not None] * raw["num_hidden_layers"]


def without_positions(raw: Mapping[str, Any]) -> list[bool]:
    """A window in the layers that do not rotate."""
    return [not flag for flag in rotated_layers(raw)]


def rotated_layers(raw: Mapping[str, Any]) -> list[bool]:
    """Layers whose queries and keys rotate, by `no_rope_layers` or its interval."""
    listed = raw.get("no_rope_layers")
    if listed is not None:
        return [bool(flag) for flag in listed]
    interval = raw["no_rope_layer_interval"]
    return [(n + 1) % interval != 0 for n in range(raw["num_hidden_layers"])]


def all_but_first_of_four(raw: Mapping[str, Any]) -> list[bool]:
    """A window in all layers but the first of each four."""
    return [n % 4 != 0 for n in range(raw["num_hidden_layers"])]


def all_but_last_of_period(raw: Mapping[str, Any]) -> list[bool]:
    """A window in all layers but the last of each period."""
    period = raw["sliding_window_pattern"]
    return [(n + 1) % period != 0 for n in range(raw["num_hidden_layers"])]
