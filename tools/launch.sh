#!/usr/bin/env bash
# Trains on all GPUs of one or several machines:
#
#   tools/launch.sh BATCHES --config FILE --exp DIR [what else toolkit.bin.train takes]
#
# BATCHES make one update. Each process takes its share of them, one after the other where there are fewer processes, so
# that the update is the same on any number of GPUs. From the environment:
#   num_gpus     processes on each machine (default: its GPUs, or 1)
#   num_nodes    machines (default: 1)
#   node_rank    which of them this is, from 0 (default: Slurm's number of it, or 0)
#   master_addr  address of the first one, needed for several
#   master_port  a free port there (default: 29500)
#   launcher     what starts a command on every machine, such as "srun --ntasks-per-node=1"; without it start this on
#                each of them by hand
# Settings that are no part of a recipe's stages, so that a training goes on when they change.
set -euo pipefail

if [ -n "${launcher:-}" ]; then
  # shellcheck disable=SC2086  # several words
  exec env -u launcher $launcher "$0" "$@"
fi

batches=$1
shift
num_gpus=${num_gpus:-$(python -c 'import torch; print(torch.cuda.device_count() or 1)')}
num_nodes=${num_nodes:-1}
processes=$((num_gpus * num_nodes))
if [ "$processes" -lt 1 ] || [ $((batches % processes)) -ne 0 ]; then
  echo "error: num_gpus, num_nodes: found $num_gpus and $num_nodes, expected numbers whose product divides the $batches" \
    "batches of an update" >&2
  exit 2
fi
train=(-m toolkit.bin.train "$@" "--train.accumulation=$((batches / processes))")

if [ "$processes" -eq 1 ]; then exec python "${train[@]}"; fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
place=(--standalone)
if [ "$num_nodes" -gt 1 ]; then
  if [ -z "${master_addr:-}" ]; then
    echo "error: master_addr: found nothing, expected the address of the first of $num_nodes machines" >&2
    exit 2
  fi
  place=(--nnodes "$num_nodes" --node-rank "${node_rank:-${SLURM_NODEID:-0}}" --master-addr "$master_addr"
    --master-port "${master_port:-29500}")
fi
exec torchrun "${place[@]}" --nproc-per-node "$num_gpus" "${train[@]}"
