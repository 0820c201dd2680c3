"""Section `target`, derived: one key per hyper-parameter of any method."""

from typing import Any

from targetsft_jax.keys import Domain, key, section
from targetsft_jax.targets.method import Hyper
from targetsft_jax.targets.methods import ALIASES, METHODS

_NAMES = Domain(
    f"one of {', '.join(METHODS)}",
    lambda name: name in METHODS or name in ALIASES,
    choices=tuple(METHODS),
)


def _target_config() -> Any:
    """Build `TargetConfig`: the method, and the hyper-parameters of all methods."""
    helps: dict[str, list[str]] = {}
    kinds: dict[str, Any] = {}
    for method_name, method in METHODS.items():
        for name, hyper in method.hyper.items():
            domain = hyper.domain.expected
            text = f"{method_name}: {hyper.help} [{hyper.default}; {domain}]"
            helps.setdefault(name, []).append(text)
            kinds[name] = kinds.get(name, type(None)) | _kind(hyper)
    name_help = f"Training method: one of {', '.join(METHODS)}."
    keys = {name: key(None, "; ".join(texts)) for name, texts in helps.items()}
    body = {
        "__doc__": "Method and hyper-parameters; null: the default, in [].",
        "__module__": __name__,
        "__annotations__": {"name": str, **kinds},
        "name": key("target_sft", name_help, _NAMES),
    }
    return section(type("TargetConfig", (), body | keys))


def _kind(hyper: Hyper) -> Any:
    """Return the type of a hyper-parameter in a configuration."""
    if hyper.integer:
        return int
    if hyper.schedulable:
        return float | dict[str, float | str]
    return float if hyper.numeric else float | str | dict[str, float]


TargetConfig: Any = _target_config()
