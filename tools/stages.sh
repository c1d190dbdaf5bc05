# shellcheck shell=bash
# Stages for recipes: numbered, named, resumable. A recipe is a list:
#
#   #!/usr/bin/env bash
#   # What the recipe does; these comment lines head its --help.
#   . "$(dirname "$0")/../../tools/stages.sh"
#
#   exp=${TOOLKIT_EXP:-$recipe/exp}             # needed: stamps and times.jsonl are kept here
#   updates=3000; if $quick; then updates=300; fi
#
#   stage pretrain "masked prediction of k-means labels" pretrain conf/pretrain.yaml "$exp/labels.jsonl.gz"
#   pretrain() { python -m toolkit.bin.train --config conf/pretrain.yaml --exp "$exp/pretrain" --max-updates $updates; }
#
#   run_stages "$@"
#
# Sourcing this file sets
#   recipe   folder of the recipe, absolute, which is also the working directory from here on
#   root     root of the repository
#   quick    true with --quick, else false: both are commands, so that `if $quick; then` works
# and makes a relative TOOLKIT_EXP or TOOLKIT_DATA absolute.
# A stage function runs in a subshell of its own with `set -euo pipefail`: it stops at the first command that fails and
# its variables are not seen by others. There, $fresh is true when an earlier try was made with another command or
# inputs, or --force was given; a stage that resumes half-done work must then drop it first.
#
# A finished stage leaves a stamp and is not run again until its key changes. The key covers the text of its function and
# of the recipe's functions that it calls, the values of the variables in them, --quick, and the content of its input
# files. So list as inputs the configuration and the files of earlier stages that a stage reads: what depends on a change
# is then redone, and nothing else.
#
# Works with bash 3.2 and later.

set -u

recipe=$(cd "$(dirname "$0")" && pwd -P) || exit
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P) || exit
stage_command=${TOOLKIT_COMMAND:-$0}
case ${TOOLKIT_EXP:-/} in /*) ;; *) TOOLKIT_EXP=$PWD/$TOOLKIT_EXP ;; esac
case ${TOOLKIT_DATA:-/} in /*) ;; *) TOOLKIT_DATA=$PWD/$TOOLKIT_DATA ;; esac
. "$root/tools/environment.sh"
cd "$recipe" || exit

quick=false
for argument in "$@"; do
  if [ "$argument" = --quick ]; then quick=true; fi
done
unset argument

stage_names=() stage_texts=() stage_functions=() stage_inputs=()

# stage NAME "one line on what it does" FUNCTION [INPUT FILE ...]
stage() {
  case $1 in
    '' | *[!a-z0-9_-]* | [0-9]*) stage_error "stage name '$1': expected small letters, digits, _ and -, first a letter" ;;
  esac
  [ $# -ge 3 ] || stage_error "stage $1: expected a name, a description and a function"
  local function=$3
  stage_names+=("$1") stage_texts+=("$2") stage_functions+=("$3")
  shift 3
  local inputs=''
  if [ $# -gt 0 ]; then inputs=$(printf '%s\n' "$@"); fi
  stage_inputs+=("$inputs")
}

# run_stages "$@": reads the command line of the recipe and runs what it asks for.
run_stages() {
  local first=1 last=${#stage_names[@]} help=false force=false named=' ' words=("$@")
  while [ $# -gt 0 ]; do
    case $1 in
      --stage | --stop-stage)
        [ $# -ge 2 ] || stage_error "$1: expected a stage number or name after it"
        stage_number "$1" "$2"
        if [ "$1" = --stage ]; then first=$number; else last=$number; fi
        shift
        ;;
      --quick) ;;
      --force) force=true ;;
      -h | --help) help=true ;;
      -*) stage_error "$1: unknown option; expected --quick, --stage N, --stop-stage M, --force, --help or stage names" ;;
      *)
        stage_number "argument" "$1"
        named="$named$number "
        ;;
    esac
    shift
  done
  if $help; then
    stage_help
    return
  fi
  [ -n "${exp:-}" ] || stage_error "the recipe must set exp, the experiment folder"
  use_environment
  local index
  for ((index = first; index <= last; index++)); do
    if [ "$named" = ' ' ] || [[ $named == *" $index "* ]]; then
      run_stage "$index" "$force" "$stage_command${words[*]+ ${words[*]}}"
    fi
  done
}

# run_stage INDEX FORCE COMMAND: one stage, from 1, unless its stamp says that it is done.
run_stage() {
  local index=$1 force=$2 name=${stage_names[$1 - 1]} function=${stage_functions[$1 - 1]}
  local label="stage $index/${#stage_names[@]} $name" stamp="$exp/.stages/$name"
  local key before='' fresh=false start status
  key=$(stage_key "$index") || exit 2
  if [ -f "$stamp" ]; then before=$(cat "$stamp"); fi
  if [ "$before" = "done $key" ] && ! $force; then
    echo "=== $label: done before (--force does it again)"
    return
  fi
  # shellcheck disable=SC2034  # fresh is for the stage's function
  if $force || { [ -n "$before" ] && [ "${before#* }" != "$key" ]; }; then fresh=true; fi
  mkdir -p "$exp/.stages" || exit 2
  echo "=== $label: ${stage_texts[index - 1]} ($(date '+%H:%M:%S'))"
  echo "begun $key" > "$stamp"
  start=$SECONDS
  # Not in a condition: bash ignores `set -e` in whatever stands in one.
  (
    set -euo pipefail
    "$function"
  )
  status=$?
  if [ $status -ne 0 ]; then
    echo "=== $label: stopped with exit code $status after $(stage_clock $((SECONDS - start)));" \
      "to go on from here: $3" >&2
    exit $status
  fi
  echo "done $key" > "$stamp"
  stage_time "$name" $((SECONDS - start))
  echo "=== $label: done in $(stage_clock $((SECONDS - start)))"
}

# Sets number to the number of the stage that the word stands for, by number or name.
stage_number() {
  local index
  for ((index = 1; index <= ${#stage_names[@]}; index++)); do
    if [ "$2" = "$index" ] || [ "$2" = "${stage_names[index - 1]}" ]; then
      number=$index
      return
    fi
  done
  stage_error "$1 $2: no such stage; expected 1 to ${#stage_names[@]} or one of: ${stage_names[*]}"
}

# Prints a checksum of all that the stage's result depends on.
stage_key() {
  local input text
  text="quick=$quick"$'\n'$(stage_code "${stage_functions[$1 - 1]}") || return
  while IFS= read -r input; do
    [ -n "$input" ] || continue
    [ -f "$input" ] || stage_error "$input: no such file, needed by stage ${stage_names[$1 - 1]}; run the stages before it"
    text="$text"$'\n'$(cksum "$input") || return
  done <<< "${stage_inputs[$1 - 1]}"
  printf '%s' "$text" | cksum | tr ' ' '-'
}

# Prints the function, the recipe's functions that it calls, and the values of the variables in them.
stage_code() {
  local todo="$1" seen=' ' body word
  while [ -n "$todo" ]; do
    word=${todo%% *} todo=${todo#"${todo%% *}"} todo=${todo# }
    if [[ $seen == *" $word "* ]]; then continue; fi
    seen="$seen$word "
    body=$(declare -f "$word") || stage_error "$word: no such function in $(basename "$0")"
    printf '%s\n' "$body"
    for word in $(printf '%s' "$body" | grep -oE '[A-Za-z_][A-Za-z0-9_-]*' | sort -u); do
      if declare -F "$word" > /dev/null && [[ $word != stage* && $word != run_stage* ]]; then
        todo="${todo:+$todo }$word"
      fi
    done
    for word in $(printf '%s' "$body" | grep -oE '\$\{?[#!]?[A-Za-z_][A-Za-z0-9_]*' | tr -d '${#!' | sort -u); do
      case $word in fresh | SECONDS | RANDOM | LINENO) continue ;; esac
      declare -p "$word" 2> /dev/null || true
    done
  done
}

# Sets the seconds of a stage in times.jsonl, one object a line, in the order of the recipe.
stage_time() {
  local times="$exp/times.jsonl" name
  for name in "${stage_names[@]}"; do
    if [ "$name" = "$1" ]; then
      echo "{\"stage\": \"$name\", \"seconds\": $2}"
    elif [ -f "$times" ]; then
      grep "{\"stage\": \"$name\"," "$times"
    fi
  done > "$times.tmp"
  mv "$times.tmp" "$times"
}

stage_clock() {
  printf '%d:%02d:%02d' $(($1 / 3600)) $(($1 / 60 % 60)) $(($1 % 60))
}

stage_help() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$(basename "$0")"
  echo
  echo "usage: $stage_command [--quick] [--stage N] [--stop-stage M] [--force] [stage ...]"
  echo
  echo "  --quick         the same stages with less training, for a first look"
  echo "  --stage N       start at this stage, a number or a name"
  echo "  --stop-stage M  stop after this stage"
  echo "  --force         do stages again that are done"
  echo "  stage ...       only these stages"
  echo
  echo "stages:"
  local index
  for ((index = 1; index <= ${#stage_names[@]}; index++)); do
    printf '  %2d  %-16s %s\n' "$index" "${stage_names[index - 1]}" "${stage_texts[index - 1]}"
  done
}

stage_error() {
  echo "$stage_command: error: $1" >&2
  exit 2
}
