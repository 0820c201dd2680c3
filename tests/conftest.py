"""Shared test environment: eight virtual CPU devices, and nothing from outside."""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

# Before jax is imported anywhere: the suite runs on the CPU, on eight devices.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Compiled programs are shared by the workers and by tests that compile the same one
# twice, in a folder of this run of the suite: the first process makes it, its workers
# inherit the variables. Small ones too: reading one takes a third of compiling it.
OWN_CACHE = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    OWN_CACHE = tempfile.mkdtemp(prefix="targetsft-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = OWN_CACHE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import pytest  # noqa: E402
from support import rig  # noqa: E402
from support.counted import COUNTED  # noqa: E402
from support.gcs import BUCKET, emulator  # noqa: E402

from targetsft_jax.training import fit as fit_module  # noqa: E402

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden vectors and data that may stand beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("the shared folder of vectors and data is not beside the checkout")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def plain_make_train_step():
    """The trainer's own one; all runs but those that ask for it share compilations."""
    real = fit_module.make_train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "make_train_step", rig.compile_once(real))
        yield real


@pytest.fixture(scope="session")
def _emulated_store():
    """Variables of one emulated object store; its clients keep its address."""
    with emulator() as variables:
        yield variables


@pytest.fixture
def store(_emulated_store, tmp_path, monkeypatch):
    """URL of an empty folder of an emulated object store; copies are in tmp_path."""
    for name, value in _emulated_store.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TARGETSFT_LOCAL_DIR", str(tmp_path / "local"))
    return f"gs://{BUCKET}/{tmp_path.name}"


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Hugging Face folders of an untrained student and teacher, by our exporter."""
    return rig.write_folders(tmp_path_factory.mktemp("models"))


def _mark_sweeps(items: list[pytest.Item]) -> None:
    """Mark all but N evenly spaced cases of each `sweep(N)` test as slow."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sweep") is not None:
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for sweep in cases.values():
        marker = sweep[0].get_closest_marker("sweep")
        assert marker is not None
        (count,) = marker.args
        fast = {round(i * (len(sweep) - 1) / max(1, count - 1)) for i in range(count)}
        for number, item in enumerate(sweep):
            if number not in fast:
                item.add_marker(pytest.mark.slow)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Slow tests run where they are selected, by `-m` or their own id, and first:
    short ones fill the time of two processes to its end."""
    _mark_sweeps(items)
    fast = [item for item in items if item.get_closest_marker("slow") is None]
    slow = [item for item in items if item.get_closest_marker("slow") is not None]
    if config.option.markexpr or any("::" in argument for argument in config.args):
        items[:] = slow + fast
    elif slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = fast


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests of the TPU compiler where it is absent, before their fixtures."""
    absent = importlib.util.find_spec("libtpu") is None
    if absent and item.get_closest_marker("libtpu") is not None:
        pytest.skip('libtpu is not installed: pip install -e ".[tpu]"')


def pytest_unconfigure() -> None:
    """Remove the compiled programs of this run."""
    if OWN_CACHE is not None:
        shutil.rmtree(OWN_CACHE, ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """The counts of all tests, also of those that other processes ran."""
    total = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, number in getattr(report, "user_properties", ()):
                if str(name).startswith(COUNTED):
                    kind = name.removeprefix(COUNTED)
                    total[kind] = total.get(kind, 0) + int(number)
    if total:
        terminalreporter.section(f"{sum(total.values()):,} malformed inputs")
        for kind, number in sorted(total.items()):
            terminalreporter.write_line(f"{number:>6,}  {kind}")
