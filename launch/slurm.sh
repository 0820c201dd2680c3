#!/usr/bin/env bash
# Run one training on the nodes of a Slurm job, one process per node with all of its GPUs:
#   sbatch --nodes 4 --gpus-per-node 8 launch/slurm.sh --config FILE [--key value …]
# Edit: the partition, the account, and how the environment is activated (PYTHON).
# run_dir, cache_dir and the data are on a file system that every node mounts, or at gs://.
#
# Exit codes of a training: 0 finished, 143 stopped early and saved, others failed.
# Three minutes before the time limit all processes save and stop, and the job is queued
# again. Slurm itself does so after preemptions and failures of a node. `scancel` also
# saves, and the job stays cancelled: submit the same command to resume.
#SBATCH --job-name=targetsft
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
# A proxy would take the connections between the processes, too.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY

srun --kill-on-bad-exit=1 "${PYTHON:-python}" -m targetsft_jax.train \
  --mesh.coordinator auto "$@" &
step=$!
time_limit=
# Not to srun, which would kill its tasks at once.
trap 'time_limit=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
trap : TERM  # Slurm signals the step as well.

# A signal interrupts `wait`, while the step still saves.
while true; do
  wait "$step"
  status=$?
  kill -0 "$step" 2>/dev/null || break
done
if [[ $time_limit && $status -eq 143 ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
