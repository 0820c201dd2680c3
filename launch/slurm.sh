#!/usr/bin/env bash
# One run on the nodes of a SLURM job, a process a node:
#   sbatch --nodes 4 launch/slurm.sh --config FILE [--key value …]
# SLURM tells jax who the processes are. run_dir, cache_dir and the data must lie where
# every node sees them. SIGTERM comes two minutes before the time is over: all save and
# stop, and the same command goes on from there.
#SBATCH --job-name=targetsft
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -eu
exec srun --kill-on-bad-exit=1 "${PYTHON:-python}" -m targetsft_jax.train \
  --mesh.coordinator auto "$@"
