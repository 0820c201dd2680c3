"""Stop and save requests from any host, acted on by all hosts after the same step."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import processes


class StepAgreement:
    """Any-reduction of flags over all processes, consistent after each step.

    A single process reads its flags immediately. Several processes read the flags of
    the previous step, whose reduction is already done, so that none waits for another
    longer than for the metrics.
    """

    def __init__(self, mesh: Mesh):
        self._mesh = mesh
        self._sharding = NamedSharding(mesh, P(mesh.axis_names))
        self._any = jax.jit(
            lambda flags: flags.max(0), out_shardings=meshes.replicated(mesh)
        )
        self._pending: jax.Array | None = None

    def any_host(self, flags: Sequence[bool]) -> tuple[bool, ...]:
        """Reduce flags over all processes; call once per step in every process.

        Args:
            flags: flags of this process.

        Returns:
            Per flag, True if any process has set it.
        """
        if not processes.is_multiprocess():
            return tuple(flags)
        row = np.asarray(flags, np.uint8)[None]
        per_device = jax.make_array_from_callback(
            (self._mesh.size, len(flags)), self._sharding, lambda index: row
        )
        previous, self._pending = self._pending, self._any(per_device)
        if previous is None:
            return (False,) * len(flags)
        return tuple(bool(flag) for flag in jax.device_get(previous))
