"""Arguments of the command `jobset`, and the manifest that it prints."""

import yaml

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.clusters.checks import check_options, check_training
from targetsft_jax.clusters.jobset import GpuNodes, gpu_jobset, tpu_jobset
from targetsft_jax.clusters.tpu_nodes import tpu_slices
from targetsft_jax.command import UsageError
from targetsft_jax.planning.chips import CHIPS
from targetsft_jax.planning.topology import parse_topology

_TRAIN = ["python", "-m", "targetsft_jax.train"]


def manifest_text(arguments: list[str]) -> str:
    """Return the manifest as YAML, with its size in a comment.

    Args:
        arguments: options, `--`, and the arguments of the training.

    Raises:
        UsageError: an option, or the training, could not work.
        SystemExit: after `--help`.
    """
    own, training = _split(arguments)
    options = jobset_parser().parse_args(own)
    if not training:
        raise UsageError(
            "no training is specified; expected `-- --config FILE [--KEY VALUE …]` "
            "after the options"
        )
    common = check_options(options)
    if options.topology is None:
        gpus = GpuNodes(options.nodes, options.gpus, options.accelerator)
        devices = gpus.nodes * gpus.gpus
        size = f"{gpus.nodes} × {gpus.gpus} GPUs: {devices}"
        manifest = gpu_jobset(common, gpus, [*_TRAIN, *training])
    else:
        kind, bounds = parse_topology(options.topology)
        if kind not in CHIPS:
            raise UsageError(
                f"--topology is {options.topology}; expected TPUs, or --nodes for GPUs"
            )
        tpus = tpu_slices(kind, bounds, options.slices)
        devices = tpus.chips
        hosts = tpus.slices * tpus.hosts_per_slice
        size = f"{tpus.slices} × {kind}:{tpus.topology}: {devices} chips, {hosts} hosts"
        # GKE describes the job to its pods if there are several.
        detected = ["--mesh.coordinator", "auto"] if hosts > 1 else []
        manifest = tpu_jobset(common, tpus, [*_TRAIN, *detected, *training])
    check_training(training, devices, 1 if options.topology is None else options.slices)
    text = yaml.safe_dump(manifest, sort_keys=False, width=100)
    return f"# {size}. Needs the JobSet controller; `kubectl apply -f -`.\n{text}"


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Arguments before and after the first `--`."""
    index = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:index], arguments[index + 1 :]


def jobset_parser() -> CommandParser:
    """Arguments of the command in front of `--`."""
    parser = CommandParser(
        "jobset",
        "--name N --image I (--topology T | --nodes N) … -- --config F …",
        "Print the manifest of a JobSet that trains on TPU slices or GPU nodes: one "
        "process per host, restarted after preemptions and lost hosts.",
        examples=(
            "targetsft jobset --name math --image IMAGE --topology v5e:4x4 \\\n"
            "      -- --config numina_math | kubectl apply -f -",
        ),
    )
    add = parser.add_argument
    text = "name of the JobSet, such as math-7b"
    add("--name", required=True, metavar="NAME", help=text)
    text = "container image with the package"
    add("--image", required=True, metavar="IMAGE", help=text)
    nodes = parser.add_mutually_exclusive_group(required=True)
    text = "TPU slice, such as v5e:4x4 or v5p:2x2x4"
    nodes.add_argument("--topology", metavar="T", help=text)
    nodes.add_argument("--nodes", type=int, metavar="N", help="number of GPU nodes")
    add("--slices", type=int, default=1, metavar="N", help="number of TPU slices (1)")
    add("--gpus", type=int, default=8, metavar="N", help="GPUs of a node (8)")
    text = "GKE's label of the GPUs, such as nvidia-h100-80gb"
    add("--accelerator", metavar="LABEL", help=text)
    add("--namespace", metavar="NAME", help="namespace (that of the context)")
    add("--service-account", metavar="NAME", help="Kubernetes service account")
    text = "spot nodes, which are taken after 15 seconds: save often"
    add("--spot", action="store_true", help=text)
    text = "seconds from SIGTERM to SIGKILL, to save in (120)"
    add("--grace", type=int, default=120, metavar="SECONDS", help=text)
    text = "restarts after failures; preemptions are not counted (20)"
    add("--max-restarts", type=int, default=20, metavar="N", help=text)
    text = "persistent volume claim and its path; repeatable"
    add("--volume", action="append", default=[], metavar="CLAIM:PATH", help=text)
    text = "environment variable of the processes; repeatable"
    add("--env", action="append", default=[], metavar="NAME=VALUE", help=text)
    return parser
