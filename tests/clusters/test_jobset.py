"""JobSets against the schemas of JobSet and Kubernetes, and their arithmetic."""

import copy
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from targetsft_jax.clusters.jobset import (
    GpuNodes,
    JobSetOptions,
    coordinator_host,
    gpu_jobset,
    tpu_jobset,
)
from targetsft_jax.clusters.tpu_nodes import tpu_slices
from targetsft_jax.command import UsageError
from targetsft_jax.jobset import main

CRD = Path(__file__).parents[3] / "shared/data/jobset/jobset.x-k8s.io_jobsets.yaml"
COMMAND = ["python", "-m", "targetsft_jax.train", "--config", "quickstart"]
PLAIN = JobSetOptions("math-7b", "registry.example/targetsft:1")
FULL = JobSetOptions(
    "math-7b",
    "registry.example/targetsft:1",
    namespace="research",
    service_account="trainer",
    spot=True,
    grace_seconds=15,
    volumes={"models": "/models"},
    environment={"HF_HOME": "/models/hub"},
)
MANIFESTS = {
    "one slice": tpu_jobset(PLAIN, tpu_slices("v5e", (4, 4)), COMMAND),
    "slices": tpu_jobset(FULL, tpu_slices("v5p", (2, 2, 4), 2), COMMAND),
    "gpus": gpu_jobset(FULL, GpuNodes(4, 8, "nvidia-h100-80gb"), COMMAND),
    "one node": gpu_jobset(PLAIN, GpuNodes(1, 1), COMMAND),
}


def _closed(schema):
    """Schema in which unknown fields are errors, and quantities may be numbers."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if "properties" in schema and "additionalProperties" not in schema:
        closed["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    return closed


@pytest.fixture(scope="module")
def schema():
    if not CRD.is_file():
        pytest.skip("the schema of JobSets is not here")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    versions = yaml.load(CRD.read_text(), loader)["spec"]["versions"]
    (version,) = (v for v in versions if v["name"] == "v1alpha2")
    closed = _closed(version["schema"]["openAPIV3Schema"])
    closed["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(closed)


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_conform_to_the_schema_of_jobsets(schema, name):
    assert [str(e.message) for e in schema.iter_errors(MANIFESTS[name])] == []


@pytest.mark.parametrize(
    "path, key",
    [
        (("spec", "failurePolicy"), "maxRestart"),
        (("spec", "replicatedJobs", 0, "template", "spec"), "paralelism"),
        (
            ("spec", "replicatedJobs", 0, "template", "spec", "template", "spec"),
            "terminationGracePeriod",
        ),
    ],
)
def test_a_misspelt_field_is_found(schema, path, key):
    manifest = copy.deepcopy(MANIFESTS["slices"])
    part = manifest
    for step in path:
        part = part[step]
    part[key] = 1
    assert any(key in error.message for error in schema.iter_errors(manifest))


@pytest.mark.parametrize("name", MANIFESTS)
def test_jobs_conform_to_the_schema_of_kubernetes(name):
    (job,) = MANIFESTS[name]["spec"]["replicatedJobs"]
    manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "a"},
        "spec": job["template"]["spec"],
    }
    kubernetes_validate.validate(manifest, "1.34", strict=True)
    manifest["spec"]["parallel"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, "1.34", strict=True)


def test_chips_are_those_of_hosts_times_pods_times_slices():
    (job,) = MANIFESTS["slices"]["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    limits = pod["containers"][0]["resources"]["limits"]
    # 2 slices of v5p:2x2x4.
    assert job["replicas"] * spec["parallelism"] * limits["google.com/tpu"] == 2 * 16
    assert spec["completions"] == spec["parallelism"] == 4
    assert spec["completionMode"] == "Indexed"
    selector = pod["nodeSelector"]
    assert selector["cloud.google.com/gke-tpu-topology"] == "2x2x4"
    assert selector["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5p-slice"


def test_gpu_pods_find_process_0_by_its_dns_name_and_themselves_by_their_index():
    manifest = MANIFESTS["gpus"]
    (job,) = manifest["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    variables = {v["name"]: v for v in pod["containers"][0]["env"]}
    # JOBSET-JOBS-JOB-POD.SUBDOMAIN, by the documentation of `enableDNSHostnames`.
    host = f"{manifest['metadata']['name']}-{job['name']}-0-0"
    address = f"{host}.{manifest['spec']['network']['subdomain']}:8476"
    assert variables["JAX_COORDINATOR_ADDRESS"]["value"] == address
    assert variables["JAX_NUM_PROCESSES"]["value"] == "4"
    index = variables["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index.endswith("['batch.kubernetes.io/job-completion-index']")
    assert coordinator_host("math-7b") == "math-7b-workers-0-0.math-7b"


@pytest.mark.parametrize("name", MANIFESTS)
def test_only_failures_that_would_repeat_end_a_jobset(name):
    spec = MANIFESTS[name]["spec"]
    (job,) = spec["replicatedJobs"]
    disruption, exit_codes = job["template"]["spec"]["podFailurePolicy"]["rules"]
    assert exit_codes["onExitCodes"]["values"] == [1, 2, 3]
    actions = {
        rule["name"]: (rule["action"], rule["onJobFailureMessagePatterns"])
        for rule in spec["failurePolicy"]["rules"]
    }
    assert actions == {
        "disruption": (
            "RestartJobSetAndIgnoreMaxRestarts",
            [".*has condition DisruptionTarget.*"],
        ),
        "would_fail_again": ("FailJobSet", [".*failed with exit code.*"]),
    }
    assert disruption["onPodConditions"][0]["type"] == "DisruptionTarget"


@pytest.mark.parametrize(
    "generation, bounds, slices, message",
    [
        ("v5e", (2, 2, 4), 1, "expected 2 dimensions"),
        ("v5p", (4, 4), 1, "expected 3 dimensions, such as v5p:2x2x4"),
        ("v5e", (2, 3), 1, "a multiple of the 4 chips of a host"),
        ("v5e", (2, 2), 2, "a single host"),
        ("v5e", (4, 4), 0, "--slices is 0"),
    ],
)
def test_nodes_that_do_not_exist_are_refused(generation, bounds, slices, message):
    with pytest.raises(UsageError, match=message):
        tpu_slices(generation, bounds, slices)


def test_single_hosts_have_the_chips_of_their_topology():
    single = tpu_slices("v6e", (1, 1))
    assert (single.chips_per_host, single.hosts_per_slice) == (1, 1)


ARGUMENTS = ["--name", "math", "--image", "i", "--topology", "v5e:4x4"]
TRAINING = ["--", "--config", "quickstart"]


def test_the_command_prints_the_manifest(capsys):
    assert main([*ARGUMENTS, "--slices", "2", *TRAINING]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# 2 × v5e:4x4: 32 chips, 8 hosts.")
    expected = tpu_jobset(
        JobSetOptions("math", "i"),
        tpu_slices("v5e", (4, 4), 2),
        [
            *("python", "-m", "targetsft_jax.train", "--mesh.coordinator", "auto"),
            *("--config", "quickstart"),
        ],
    )
    assert yaml.safe_load(printed) == expected


@pytest.mark.parametrize(
    "arguments, message",
    [
        (ARGUMENTS, "no training is specified"),
        ([*ARGUMENTS, "--", "--config", "quickstart", "--train.stepz", "3"], "stepz"),
        (
            [*ARGUMENTS, *TRAINING, "--mesh.fsdp", "3", "--mesh.data", "1"],
            "needs 3 devices; found 16",
        ),
        (["--name", "Math", *ARGUMENTS[2:], *TRAINING], "--name is 'Math'"),
        ([*ARGUMENTS, "--volume", "models", *TRAINING], "expected CLAIM:PATH"),
        ([*ARGUMENTS[:-1], "cpu:8", *TRAINING], "expected TPUs"),
        ([*ARGUMENTS[:-1], "h100:8", *TRAINING], "expected TPUs"),
        (
            [*ARGUMENTS[:-2], "--nodes", "4", "--slices", "2", *TRAINING],
            "--slices is 2 and --nodes is 4; --slices is for --topology",
        ),
        (
            [*ARGUMENTS, "--slices", "2", *TRAINING, "--mesh.data", "1"]
            + ["--mesh.fsdp", "-1"],
            "mesh.data is 1 and --slices is 2; expected a multiple",
        ),
        ([*ARGUMENTS, "--grace", "0", *TRAINING], "--grace is 0"),
    ],
)
def test_what_could_not_run_is_refused(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_spot_nodes_have_15_seconds_at_most(capsys):
    assert main([*ARGUMENTS, "--spot", *TRAINING]) == 0
    manifest = yaml.safe_load(capsys.readouterr().out)
    (job,) = manifest["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 15
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
