"""Import of the package: quick and without side effects."""

import subprocess
import sys

PROBE = """
import os, sys, time
before = dict(os.environ)
start = time.process_time()
import jax, jax.numpy
jax_seconds = time.process_time() - start
# After the import of jax, which sets variables.
environment = dict(os.environ)
start = time.process_time()
import targetsft_jax
seconds = time.process_time() - start
assert dict(os.environ) == environment, "the environment was changed"
assert not jax._src.xla_bridge.backends_are_initialized(), "a backend was started"
assert not jax.config.jax_enable_x64
heavy = {"flax", "optax", "orbax", "grain", "transformers", "torch", "tensorflow"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
print(jax_seconds, seconds)
"""


def test_import_is_quick_and_has_no_side_effects():
    """At most one second of CPU time in addition to jax."""
    result = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    _, seconds = map(float, result.stdout.split())
    assert seconds <= 1
