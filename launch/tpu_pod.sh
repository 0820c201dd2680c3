#!/usr/bin/env bash
# One run on all hosts of a TPU slice:
#   launch/tpu_pod.sh NAME ZONE --config FILE [--key value …]
# The package is installed on every host in FOLDER (default targetsft-jax, with .venv in
# it). run_dir, cache_dir and the data must lie where every host sees them, such as a
# mounted Filestore. The same command goes on after a pre-emption.
set -eu
name=${1:?usage: launch/tpu_pod.sh NAME ZONE --config FILE [--key value …]}
zone=${2:?usage: launch/tpu_pod.sh NAME ZONE --config FILE [--key value …]}
shift 2
command="cd ${FOLDER:-targetsft-jax} && .venv/bin/python -m targetsft_jax.train"
command+=" --mesh.coordinator auto$(printf ' %q' "$@")"
exec gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all \
  --command "$command"
