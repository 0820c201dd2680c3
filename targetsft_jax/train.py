"""`python -m targetsft_jax.train --config FILE [--key value …]`: one training run."""

import os
import sys
from collections.abc import Sequence

from targetsft_jax.training.config import ConfigError, load


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
