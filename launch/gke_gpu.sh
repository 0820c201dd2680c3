#!/usr/bin/env bash
# Run one training on GPU nodes of a Kubernetes cluster with JobSet:
#   launch/gke_gpu.sh --config FILE [--key value …]
# Edit the values below; `python -m targetsft_jax.jobset --help` has more. No permissions in
# the cluster are needed: the processes find each other by DNS names. Add what your network
# needs (RDMA devices, NCCL plug-ins) to the printed manifest: APPLY=cat.
set -euo pipefail
python=${PYTHON:-python}
# VOLUME= for none, with run_dir, cache_dir and data at gs://BUCKET/PATH.
volume=${VOLUME-runs:/runs}
"$python" -m targetsft_jax.jobset \
  --name "${NAME:-targetsft}" \
  --image "${IMAGE:?the container image}" \
  --nodes "${NODES:-2}" --gpus "${GPUS:-8}" \
  --accelerator "${ACCELERATOR:-nvidia-h100-80gb}" \
  ${volume:+--volume "$volume"} \
  -- "$@" | ${APPLY:-kubectl apply -f -}
