#!/usr/bin/env bash
# Run one training on all hosts of a TPU slice:
#   launch/tpu_pod.sh NAME ZONE --config FILE [--key value …]
# The package must be installed on every host in FOLDER (default targetsft-jax) with a
# .venv in it. run_dir, cache_dir and the data must be on a file system that every host
# mounts, such as Filestore. After a preemption the same command resumes the run.
set -eu
name=${1:?usage: launch/tpu_pod.sh NAME ZONE --config FILE [--key value …]}
zone=${2:?usage: launch/tpu_pod.sh NAME ZONE --config FILE [--key value …]}
shift 2
command="cd ${FOLDER:-targetsft-jax} && .venv/bin/python -m targetsft_jax.train"
command+=" --mesh.coordinator auto$(printf ' %q' "$@")"
exec gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all \
  --command "$command"
