#!/usr/bin/env bash
# Run one training on TPU slices of a GKE cluster with JobSet:
#   launch/gke_tpu.sh --config FILE [--key value …]
# Edit the values below; `python -m targetsft_jax.jobset --help` has more. The image is
# that of launch/Containerfile. Preemptions and lost hosts restart the job, which resumes;
# a wrong configuration ends it.
set -euo pipefail
python=${PYTHON:-python}
# VOLUME= for none, with run_dir, cache_dir and data at gs://BUCKET/PATH.
volume=${VOLUME-runs:/runs}
"$python" -m targetsft_jax.jobset \
  --name "${NAME:-targetsft}" \
  --image "${IMAGE:?the container image, such as REGION-docker.pkg.dev/PROJECT/REPO/targetsft}" \
  --topology "${TOPOLOGY:-v5e:4x4}" \
  --slices "${SLICES:-1}" \
  ${volume:+--volume "$volume"} \
  -- "$@" | ${APPLY:-kubectl apply -f -}
