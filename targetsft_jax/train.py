"""`python -m targetsft_jax.train --config FILE [--key value …]`: one training run."""

import os
import sys
import traceback
from collections.abc import Sequence

from targetsft_jax.config.schema import Config, ConfigError, MeshConfig, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    # Transformers serves tokenizers here: that torch is absent is no news.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        config = load(sys.argv[1:] if arguments is None else arguments)
    except ConfigError as error:
        sys.stderr.write(f"configuration: {error}\n")
        return 2
    import jax

    if config.mesh.cpu_devices is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", config.mesh.cpu_devices)
    try:
        several = _join(config.mesh)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if not several:
        return _run(config)
    try:
        status = _run(config)
    except Exception:  # noqa: BLE001
        # Such as a step that fails since another process is gone.
        traceback.print_exc()
        status = 1
    if status:
        # An orderly end would wait for the others, which wait for this process.
        sys.stderr.write(f"process {jax.process_index()} ends, and so will all\n")
        sys.stderr.flush()
        os._exit(status)
    return 0


def _join(mesh: MeshConfig) -> bool:
    """Whether this is one of several processes; only the first one prints."""
    from targetsft_jax.parallel import processes

    several = processes.initialize(
        mesh.coordinator,
        mesh.processes,
        mesh.process,
        timeout=mesh.join_seconds,
        heartbeat=mesh.heartbeat_seconds,
    )
    if several and not processes.is_primary():
        # The file, not sys.stdout: compiled libraries print as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return several


def _run(config: Config) -> int:
    from targetsft_jax.training.preemption import Preempted
    from targetsft_jax.training.run import run

    try:
        run(config)
    except Preempted as stop:
        print(f"{stop}; the same command goes on from there")
    except (ConfigError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from the checkpoint\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
