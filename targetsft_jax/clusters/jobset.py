"""JobSets: manifests of trainings on TPU slices and GPU nodes of Kubernetes.

A job per slice, a pod per host, a process per pod. Which end of a process starts the
JobSet again:

    exit code 1, 2, 3       no: it would fail again
    disruption of a pod     yes, without limit: preemption, maintenance, eviction
    all others              yes, up to `max_restarts`: crashes, 143, 75 (lost peer)

The manifest conforms to the schema of jobset.x-k8s.io/v1alpha2; what a schema cannot
see (counts, DNS names, selectors) follows from arithmetic here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from targetsft_jax.clusters.tpu_nodes import TpuSlices
from targetsft_jax.command import BAD_ARGUMENTS, DOES_NOT_FIT, FAILED

_WORKERS = "workers"
_CONTAINER = "train"
_PORT = 8476
_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


@dataclass(frozen=True)
class GpuNodes:
    """Nodes of GPUs, with one process each.

    Attributes:
        nodes: number of nodes.
        gpus: GPUs of a node.
        accelerator: value of the node label cloud.google.com/gke-accelerator; None for
            no selector.
    """

    nodes: int
    gpus: int
    accelerator: str | None = None


@dataclass(frozen=True)
class JobSetOptions:
    """Everything of a JobSet but its nodes and its command.

    Attributes:
        name: of the JobSet, a DNS label.
        image: container image with the package.
        namespace: None for that of the context.
        service_account: Kubernetes service account; None for the default one.
        spot: True for spot nodes.
        grace_seconds: seconds between SIGTERM and SIGKILL; spot nodes have 15 at most.
        max_restarts: restarts that are counted.
        volumes: claim -> mount path of persistent volumes.
        environment: further variables.
    """

    name: str
    image: str
    namespace: str | None = None
    service_account: str | None = None
    spot: bool = False
    grace_seconds: int = 120
    max_restarts: int = 20
    volumes: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def tpu_jobset(
    options: JobSetOptions, nodes: TpuSlices, command: Sequence[str]
) -> dict[str, Any]:
    """Manifest of a training on TPU slices.

    jax finds the processes, and several slices, by what GKE injects into the pods.
    """
    container = {
        "resources": {"limits": {"google.com/tpu": nodes.chips_per_host}},
        # Locked memory, and the devices of the host.
        "securityContext": {"privileged": True},
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}],
    }
    pod = {
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": nodes.accelerator,
            "cloud.google.com/gke-tpu-topology": nodes.topology,
        },
        "tolerations": [_toleration("google.com/tpu")],
    }
    manifest = _jobset(
        options,
        command,
        container,
        pod,
        environment={"JAX_COORDINATOR_PORT": str(_PORT)},
        jobs=nodes.slices,
        pods_per_job=nodes.hosts_per_slice,
    )
    # One slice per node pool, and no two jobs on one.
    manifest["metadata"]["annotations"] = {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    return manifest


def gpu_jobset(
    options: JobSetOptions, nodes: GpuNodes, command: Sequence[str]
) -> dict[str, Any]:
    """Manifest of a training on GPU nodes, without permissions for jax in the cluster.

    The pods find process 0 by the DNS name that the JobSet gives it.
    """
    container = {
        "resources": {"limits": {"nvidia.com/gpu": nodes.gpus}},
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],
    }
    pod: dict[str, Any] = {
        "tolerations": [_toleration("nvidia.com/gpu")],
        # NCCL exchanges data between the GPUs of a node there.
        "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}],
    }
    if nodes.accelerator:
        label = "cloud.google.com/gke-accelerator"
        pod["nodeSelector"] = {label: nodes.accelerator}
    return _jobset(
        options,
        command,
        container,
        pod,
        environment={
            "JAX_COORDINATOR_ADDRESS": f"{coordinator_host(options.name)}:{_PORT}",
            "JAX_NUM_PROCESSES": str(nodes.nodes),
        },
        jobs=1,
        pods_per_job=nodes.nodes,
    )


def coordinator_host(name: str) -> str:
    """DNS name of the first pod of a JobSet, JOBSET-JOBS-0-0.SUBDOMAIN."""
    return f"{name}-{_WORKERS}-0-0.{name}"


def _jobset(
    options: JobSetOptions,
    command: Sequence[str],
    container: Mapping[str, Any],
    pod: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    jobs: int,
    pods_per_job: int,
) -> dict[str, Any]:
    variables: list[dict[str, Any]] = [
        {"name": name, "value": value}
        for name, value in {**environment, **options.environment}.items()
    ]
    if "JAX_NUM_PROCESSES" in environment:
        by_index = {"fieldRef": {"fieldPath": _INDEX}}
        variables.append({"name": "JAX_PROCESS_ID", "valueFrom": by_index})
    claims = list(options.volumes.items())
    mounts = [{"name": claim, "mountPath": path} for claim, path in claims]
    volumes = [
        {"name": claim, "persistentVolumeClaim": {"claimName": claim}}
        for claim, _ in claims
    ]
    trainer = {
        "name": _CONTAINER,
        "image": options.image,
        # No shell, which would not forward SIGTERM.
        "command": list(command),
        "env": variables,
        **container,
    }
    if mounts:
        trainer["volumeMounts"] = [*container.get("volumeMounts", ()), *mounts]
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": options.grace_seconds,
        **pod,
        "containers": [trainer],
    }
    if volumes:
        spec["volumes"] = [*pod.get("volumes", ()), *volumes]
    if options.service_account:
        spec["serviceAccountName"] = options.service_account
    if options.spot:
        selector = {"cloud.google.com/gke-spot": "true"}
        spec["nodeSelector"] = spec.get("nodeSelector", {}) | selector
        spec["tolerations"] = [*spec["tolerations"], _toleration(*selector)]
    metadata: dict[str, Any] = {"name": options.name}
    if options.namespace:
        metadata["namespace"] = options.namespace
    job = {
        "parallelism": pods_per_job,
        "completions": pods_per_job,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": _pod_rules()},
        "template": {"spec": spec},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "network": {"enableDNSHostnames": True, "subdomain": options.name},
            "failurePolicy": {
                "maxRestarts": options.max_restarts,
                "rules": _jobset_rules(),
            },
            "replicatedJobs": [
                {"name": _WORKERS, "replicas": jobs, "template": {"spec": job}}
            ],
        },
    }


def _pod_rules() -> list[dict[str, Any]]:
    """Ends of a pod that the rules of the JobSet distinguish by their message."""
    disruption = {"type": "DisruptionTarget", "status": "True"}
    again = {
        "containerName": _CONTAINER,
        "operator": "In",
        "values": [FAILED, BAD_ARGUMENTS, DOES_NOT_FIT],
    }
    return [
        {"action": "FailJob", "onPodConditions": [disruption]},
        {"action": "FailJob", "onExitCodes": again},
    ]


def _jobset_rules() -> list[dict[str, Any]]:
    return [
        {
            "name": "disruption",
            "action": "RestartJobSetAndIgnoreMaxRestarts",
            "onJobFailureReasons": ["PodFailurePolicy"],
            "onJobFailureMessagePatterns": [".*has condition DisruptionTarget.*"],
        },
        {
            "name": "would_fail_again",
            "action": "FailJobSet",
            "onJobFailureReasons": ["PodFailurePolicy"],
            "onJobFailureMessagePatterns": [".*failed with exit code.*"],
        },
    ]


def _toleration(key: str) -> dict[str, str]:
    return {"key": key, "operator": "Exists", "effect": "NoSchedule"}
