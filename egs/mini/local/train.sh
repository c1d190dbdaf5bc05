# shellcheck shell=bash
# Training as the recipes of this folder do it, and commands beside each other; sourced. Needs $exp, the folder of the experiments.

# train EXPERIMENT CONFIGURATION [settings]: two batches make an update, on two cores or GPUs where there are two, else
# one after the other; the result is the same.
train() {
  local devices
  devices=$(python -c 'import torch; from toolkit.processes import num_cores; print(torch.cuda.device_count() or num_cores())')
  if [ "$devices" -ge 2 ]; then
    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 -m toolkit.bin.train --config "$2" --exp "$exp/$1" "${@:3}"
  else
    python -m toolkit.bin.train --config "$2" --exp "$exp/$1" --train.accumulation=2 "${@:3}"
  fi
}

# beside NAME COMMAND ...: begins a command on one core and goes on to what comes next; its lines are shown with the name.
# wait_for_all has to follow: it waits for one after the other; if one failed, it ends those that remain. For small work: two
# commands, each on a core, take less time than one after the other on both.
commands=()
beside() {
  trap 'kill "${commands[@]}" 2> /dev/null || true' EXIT
  # exec, so that the number is that of the command itself.
  (
    export OMP_NUM_THREADS=1
    exec "${@:2}" > >(named_lines "$1") 2>&1
  ) &
  commands+=($!)
}

wait_for_all() {
  local command
  for command in "${commands[@]}"; do wait "$command"; done
  commands=()
  trap - EXIT
}

named_lines() {
  local line
  while IFS= read -r line; do echo "$1: $line"; done
}
