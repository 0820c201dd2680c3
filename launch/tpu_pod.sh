#!/usr/bin/env bash
# Run one training on all hosts of a TPU VM slice, detached from this terminal:
#   launch/tpu_pod.sh NAME ZONE --config FILE [--key value …]
#   launch/tpu_pod.sh NAME ZONE log     follow the output of host 0
#   launch/tpu_pod.sh NAME ZONE stop    save a checkpoint on all hosts and stop
# Edit: FOLDER, where the package is installed on every host, with a .venv in it.
# run_dir, cache_dir and the data are in an object store, gs://BUCKET/PATH (extra gcs), or on
# a file system that every host mounts, such as Filestore. After a preemption, create the slice again and run the same command: it resumes.
set -eu
usage="usage: launch/tpu_pod.sh NAME ZONE (--config FILE [--key value …] | log | stop)"
name=${1:?$usage}
zone=${2:?$usage}
shift 2
: "${1:?$usage}"
folder=${FOLDER:-targetsft-jax}
on() { # HOSTS COMMAND
  gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker="$1" --command "$2"
}
case $1 in
  log) on 0 "tail -n 50 -f $folder/train.log" ;;
  stop) on all "pkill -TERM -f '[t]argetsft_jax.train'" ;;
  *)
    # 8476 is open in the default firewall rule; jax's own port, 8482, is not. All hosts at
    # once: a training on some of the hosts waits for the others.
    train=".venv/bin/python -m targetsft_jax.train --mesh.coordinator auto"
    train+=$(printf ' %q' "$@")
    detached="JAX_COORDINATOR_PORT=8476 setsid nohup $train > train.log 2>&1 < /dev/null &"
    on all "cd $folder && $detached"
    ;;
esac
