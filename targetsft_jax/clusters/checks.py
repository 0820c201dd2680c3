"""Checks of a JobSet before it exists: names, counts, and its training."""

import argparse
import re
from collections.abc import Sequence

from targetsft_jax.clusters.jobset import JobSetOptions
from targetsft_jax.command import UsageError
from targetsft_jax.config import load
from targetsft_jax.keys import shown
from targetsft_jax.parallel.mesh import mesh_shape

_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
# NAME-workers-JOB-POD is a host name of 63 characters at most.
_LONGEST_NAME = 40
_SPOT_SECONDS = 15


def check_options(options: argparse.Namespace) -> JobSetOptions:
    """Return the options of a JobSet.

    Raises:
        UsageError: an option that Kubernetes would refuse, or that could not work.
    """
    if not _LABEL.fullmatch(options.name) or len(options.name) > _LONGEST_NAME:
        raise UsageError(
            f"--name is {shown(options.name)}; expected lower-case letters, digits and "
            f"hyphens, at most {_LONGEST_NAME}, such as math-7b"
        )
    for flag in ("nodes", "gpus", "grace", "max_restarts"):
        value = getattr(options, flag)
        least = 0 if flag == "max_restarts" else 1
        if value is not None and value < least:
            name = flag.replace("_", "-")
            raise UsageError(f"--{name} is {value}; expected {least} or more")
    if options.nodes is not None and options.slices != 1:
        raise UsageError(
            f"--slices is {options.slices} and --nodes is {options.nodes}; --slices is "
            "for --topology: GPU nodes are all in one network, so remove --slices"
        )
    grace = min(options.grace, _SPOT_SECONDS) if options.spot else options.grace
    return JobSetOptions(
        name=options.name,
        image=options.image,
        namespace=options.namespace,
        service_account=options.service_account,
        spot=options.spot,
        grace_seconds=grace,
        max_restarts=options.max_restarts,
        volumes=_pairs("--volume", options.volume, ":", "CLAIM:PATH"),
        environment=_pairs("--env", options.env, "=", "NAME=VALUE"),
    )


def check_training(arguments: Sequence[str], devices: int, slices: int = 1) -> None:
    """Check the arguments of the training, as it would, and its mesh.

    Files of the training need not exist on this machine.

    Args:
        arguments: of the training command.
        devices: number of devices of the JobSet.
        slices: number of TPU slices that they are in.

    Raises:
        UsageError: a key, a value, or a mesh that does not fit the devices.
    """
    config = load.load(arguments)
    mesh = config.mesh
    try:
        shape = mesh_shape(
            devices, mesh.data, mesh.fsdp, mesh.tensor, context=mesh.context
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if shape[0] % slices:
        raise UsageError(
            f"mesh.data is {shape[0]} and --slices is {slices}; expected a multiple of "
            f"it, such as --mesh.data {slices} --mesh.fsdp -1: only the data axis "
            "crosses between slices"
        )


def _pairs(
    flag: str, texts: Sequence[str], separator: str, form: str
) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, found, value = text.partition(separator)
        if not found or not name or not value:
            raise UsageError(f"{flag} is {shown(text)}; expected {form}")
        pairs[name] = value
    return pairs
