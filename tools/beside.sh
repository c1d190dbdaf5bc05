# shellcheck shell=bash
# Small commands beside each other, in a stage of a recipe; sourced. Two commands, each on a core, take less time than one
# after the other on both.

# beside NAME COMMAND ...: begins a command on one core and goes on to what comes next; its lines are shown with the name.
# wait_for_all has to follow: it waits for one after the other; if one failed, it ends those that remain.
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
