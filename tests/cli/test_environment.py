"""Report of the environment."""

import platform
import sys
import time

import jax

from targetsft_jax.cli import environment
from targetsft_jax.cli.environment import report


def _lines(seconds: float = 60) -> dict[str, str]:
    return {line[:15].strip(): line[15:] for line in report(seconds)}


def test_versions_platform_and_devices(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("HF_TOKEN", "secret")
    lines = _lines()
    assert platform.python_version() in lines["python"]
    assert f"jax {jax.__version__}" in lines["packages"]
    assert lines["devices"].endswith("x cpu (cpu)")
    assert "JAX_PLATFORMS=cpu" in lines["variables"]
    assert "secret" not in "".join(lines.values())


def test_a_driver_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(environment, "_DEVICES", "import time; time.sleep(600)")
    start = time.monotonic()
    assert _lines(0.2)["devices"].startswith("no answer within 0.2 s")
    assert time.monotonic() - start < 60


def test_an_absent_accelerator_is_reported(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    lines = _lines()
    assert lines["devices"].startswith("jax finds none: ")
    assert "tpu" in lines["devices"].lower() or "TPU" in lines["devices"]


def test_devices_are_counted(monkeypatch):
    text = '[["gpu", "H100", 85899345920], ["gpu", "H100", 85899345920]]'
    code = f"print({text!r})"
    monkeypatch.setattr(environment, "_DEVICES", code)
    assert _lines()["devices"] == "2 x H100 (gpu, 80 GiB)"
    assert sys.executable in _lines()["python"]
