# shellcheck shell=bash
# Training as the recipes of this folder do it; sourced. Needs $exp, the folder of the experiments.

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

# train_beside EXPERIMENT CONFIGURATION [settings]: begins a training on one core, or on the first GPU, and goes on to what
# comes next; its lines are shown with its name. finish_trainings has to follow: it waits for all, and ends them if one fails.
trainings=()
train_beside() {
  trap 'kill "${trainings[@]}" 2> /dev/null || true' EXIT
  # exec, so that the number is that of the training itself.
  (
    export OMP_NUM_THREADS=1
    exec python -m toolkit.bin.train --config "$2" --exp "$exp/$1" "${@:3}" > >(named_lines "$1") 2>&1
  ) &
  trainings+=($!)
}

finish_trainings() {
  local training
  for training in "${trainings[@]}"; do wait "$training"; done
  trap - EXIT
}

named_lines() {
  local line
  while IFS= read -r line; do echo "$1: $line"; done
}
