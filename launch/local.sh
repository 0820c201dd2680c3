#!/usr/bin/env bash
# Run one training in N processes on this machine, each with separate devices:
#   launch/local.sh 2 --config FILE --mesh.cpu_devices 4 [--key value …]
# PYTHON is the interpreter. SIGTERM and Ctrl-C are forwarded to all processes, which
# save a checkpoint and stop.
set -u
count=${1:?usage: launch/local.sh N --config FILE [--key value …]}
shift
python=${PYTHON:-python}
port=$("$python" -c 'import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])') || exit 1
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count

pids=()
stop() {
  trap - TERM INT  # a second signal ends this script and the processes
  trap 'kill -TERM "${pids[@]}" 2>/dev/null; exit 143' TERM INT
  kill -TERM "${pids[@]}" 2>/dev/null
}
trap stop TERM INT
for ((number = 0; number < count; number++)); do
  JAX_PROCESS_ID=$number "$python" -m targetsft_jax.train "$@" &
  pids+=($!)
done

status=0
for pid in "${pids[@]}"; do
  while true; do
    wait "$pid"
    code=$?
    # A signal to this script interrupts `wait`; the process may still run.
    if ((code > 128)) && kill -0 "$pid" 2>/dev/null; then continue; fi
    break
  done
  ((code)) && status=$code
done
exit "$status"
