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
