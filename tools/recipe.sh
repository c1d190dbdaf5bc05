# shellcheck shell=bash
# What recipes for large corpora share beside the stages: paths, GPUs and machines. Sourced after stages.sh by
# pretraining.sh and recognition.sh, which set
#   trainings    names of the stages that train, which several machines share

# from_start PATH: the path as it was meant where the recipe was started; stages.sh has gone to the recipe's folder.
from_start() {
  case $1 in
    '' | /*) printf '%s' "$1" ;;
    *) printf '%s' "$OLDPWD/$1" ;;
  esac
}

# run_recipe "$@": the stages; on a machine that is not the first of several, its part of one training.
run_recipe() {
  if [ "${node_rank:-0}" -eq 0 ]; then
    run_stages "$@"
    return
  fi
  if [ $# -ne 1 ] || [[ " $trainings " != *" $1 "* ]]; then
    stage_error "node_rank is $node_rank: expected one of $trainings alone, the stage that the first machine is at"
  fi
  use_environment
  # What is to be dropped the first machine drops.
  _state=begun
  (
    set -euo pipefail
    "$1"
  )
}

# num_processes KIND: one for each core, or for each GPU where there are any.
num_processes() {
  python - "$1" << 'END'
import sys
import torch
from toolkit.processes import num_cores
gpus = torch.cuda.device_count() if sys.argv[1] == "devices" else 0
print(gpus or num_cores())
END
}

# fetch URL FILE: downloads a file that is not there yet, going on where an earlier try stopped.
fetch() {
  if [ -f "$2" ]; then return; fi
  mkdir -p "$(dirname "$2")"
  curl -fL -C - -o "$2.part" "$1" || stage_error "$(basename "$2") could not be downloaded to $(dirname "$2"); start again to" \
    "go on, or get it yourself from $1"
  mv "$2.part" "$2"
}
