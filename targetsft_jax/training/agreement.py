"""What one process wishes and all do after the same step: to save, or to stop."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import processes


class Wishes:
    """Flags that any process may raise, and that all see after the same step.

    In a run of one process it sees its own at once. Of several, each sees those that
    were raised a step before: they come with that step's numbers, so that no process
    waits for another more than it does anyway.
    """

    def __init__(self, mesh: Mesh):
        self._mesh = mesh
        self._place = NamedSharding(mesh, P(mesh.axis_names))
        self._any = jax.jit(
            lambda flags: flags.max(0), out_shardings=meshes.replicated(mesh)
        )
        self._under_way: jax.Array | None = None

    def shared(self, flags: Sequence[bool]) -> tuple[bool, ...]:
        """What any process wished; asked once a step, in every process.

        Args:
            flags: this process's own.
        """
        if not processes.is_multiprocess():
            return tuple(flags)
        row = np.asarray(flags, np.uint8)[None]
        everyones = jax.make_array_from_callback(
            (self._mesh.size, len(flags)),
            self._place,
            # A row a device.
            lambda index: row,
        )
        before, self._under_way = self._under_way, self._any(everyones)
        if before is None:
            return (False,) * len(flags)
        return tuple(bool(flag) for flag in jax.device_get(before))
