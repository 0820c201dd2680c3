#!/usr/bin/env bash
# Run one training on the nodes of a SLURM job, one process per node:
#   sbatch --nodes 4 launch/slurm.sh --config FILE [--key value …]
# jax reads the processes from SLURM. run_dir, cache_dir and the data must be on a file
# system that every node mounts. Two minutes before the time limit SLURM sends SIGTERM:
# all processes save a checkpoint and stop, and the same command resumes the run.
#SBATCH --job-name=targetsft
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -eu
exec srun --kill-on-bad-exit=1 "${PYTHON:-python}" -m targetsft_jax.train \
  --mesh.coordinator auto "$@"
