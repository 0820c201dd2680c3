#!/usr/bin/env bash
# Run one training on a cluster that xpk (github.com/AI-Hypercomputer/xpk) manages:
#   CLUSTER=NAME IMAGE=IMAGE launch/xpk.sh --config FILE [--key value …]
# Edit: the type of TPU, and the number of slices. xpk restarts after exit codes 42 and 127
# to 255, so also after 143 (stopped early and saved); 75 is a lost process.
set -eu
# `exec`, so that SIGTERM reaches the training and not a shell.
command="exec python -m targetsft_jax.train --mesh.coordinator auto$(printf ' %q' "$@")"
exec xpk workload create \
  --cluster "${CLUSTER:?name of the cluster}" \
  --workload "${NAME:-targetsft}" \
  --tpu-type "${TPU_TYPE:-v5litepod-16}" --num-slices "${SLICES:-1}" \
  --docker-image "${IMAGE:?the container image}" \
  --max-restarts 20 --restart-on-exit-codes 75 \
  --env JAX_COORDINATOR_PORT=8476 \
  --command "$command"
