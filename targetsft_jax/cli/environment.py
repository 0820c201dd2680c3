"""Report of the environment for bug reports: versions, platform, devices."""

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from targetsft_jax import versions

PACKAGES = (
    *versions.MODEL,
    "grain",
    "safetensors",
    "huggingface-hub",
    "pyarrow",
    "tensorflow-datasets",
    "matplotlib",
    "peft",
    "torch",
    "wandb",
    "vllm",
    "jax-cuda12-plugin",
    "libtpu",
)
"""Packages whose versions a bug report needs, those of extras included."""

_VARIABLES = ("JAX_", "XLA_", "TPU_", "LIBTPU_", "CUDA_VISIBLE", "HF_HUB_OFFLINE")
"""Beginnings of the names of environment variables that change a run."""

_DEVICES = """
import json, jax
print(json.dumps([
    [d.platform, d.device_kind, (d.memory_stats() or {}).get("bytes_limit")]
    for d in jax.devices()
]))
"""


def report(seconds: float) -> list[str]:
    """Lines of the report.

    Args:
        seconds: time after which accelerators count as unresponsive.
    """
    installed = versions.installed_versions(PACKAGES)
    absent = [name for name in PACKAGES if name not in installed]
    lines = [
        f"targetsft-jax  {installed.pop('targetsft-jax')}",
        f"python         {installed.pop('python')} at {sys.executable}",
        f"platform       {platform.platform()}, {os.cpu_count()} CPUs{_memory()}",
        f"packages       {_items(installed)}",
        f"not installed  {', '.join(absent) or 'none of the others'}",
        f"devices        {_devices(seconds)}",
    ]
    variables = list(_variables())
    return [*lines, f"variables      {', '.join(variables) or 'none that jax reads'}"]


def _items(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _memory() -> str:
    """Memory of this machine, where the system reports it."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return ""
    return f", {size / 2**30:.0f} GiB"


def _variables() -> Iterator[str]:
    for name, value in sorted(os.environ.items()):
        if name.startswith(_VARIABLES):
            yield f"{name}={value}"


def _devices(seconds: float) -> str:
    """Devices that jax finds, by a process of its own, since drivers can hang."""
    process = subprocess.Popen(
        [sys.executable, "-c", _DEVICES],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _abandon(process)
        return (
            f"no answer within {seconds:g} s: the driver hangs, or another process has "
            "the accelerator"
        )
    if process.returncode:
        last = errors.strip().splitlines() or [f"exit code {process.returncode}"]
        return f"jax finds none: {last[-1]}"
    return _listing(json.loads(output.splitlines()[-1]))


def _abandon(process: "subprocess.Popen[str]") -> None:
    """Kill a process without waiting for one that the kernel does not let go."""
    process.kill()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)


def _listing(devices: list[list[Any]]) -> str:
    counts: dict[str, int] = {}
    for backend, kind, memory in devices:
        size = f", {memory / 2**30:.0f} GiB" if memory else ""
        name = f"{kind} ({backend}{size})"
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{count} x {name}" for name, count in counts.items())
