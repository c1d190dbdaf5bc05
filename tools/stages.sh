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
# its variables are not seen by others. A stage that resumes half-done work, such as training, begins with
#   stage_drop PATH ...
# which removes what there is of an earlier try with another command or inputs, or before --force.
#
# A finished stage leaves a stamp and is not run again until its key changes. The key covers the text of its function and
# of the recipe's functions that it calls, the values of the variables in them, --quick, and the content of its input
# files. So list as inputs the scripts, the configuration and the files of earlier stages that a stage reads: what depends
# on a change is then redone, and nothing else. An input that ends in ? may be missing. The code of the toolkit is not part
# of the key: after changing that, use --force.
#
# Written for bash 3.2 and later.

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
  stage_names+=("$1") stage_texts+=("$2") stage_functions+=("$3")
  shift 3
  local inputs=''
  if [ $# -gt 0 ]; then inputs=$(printf '%s\n' "$@"); fi
  stage_inputs+=("$inputs")
}

# Bash shows the local variables of a function to what it calls. So those of the four functions below, which lead to the
# recipe's own, begin with _, and a recipe's variables should not.

# run_stages "$@": reads the command line of the recipe and runs what it asks for.
run_stages() {
  local _first=1 _last=${#stage_names[@]} _help=false _force=false _named=' ' _words=("$@") _index
  while [ $# -gt 0 ]; do
    case $1 in
      --stage | --stop-stage)
        [ $# -ge 2 ] || stage_error "$1: expected a stage number or name after it"
        _index=$(stage_number "$1" "$2") || exit
        if [ "$1" = --stage ]; then _first=$_index; else _last=$_index; fi
        shift
        ;;
      --quick) ;;
      --force) _force=true ;;
      -h | --help) _help=true ;;
      -*) stage_error "$1: unknown option; expected --quick, --stage N, --stop-stage M, --force, --help or stage names" ;;
      *)
        _index=$(stage_number argument "$1") || exit
        _named="$_named$_index "
        ;;
    esac
    shift
  done
  if $_help; then
    stage_help
    return
  fi
  [ -n "${exp:-}" ] || stage_error "the recipe must set exp, the experiment folder"
  use_environment
  if $quick && [ -e "$exp/.stages/.full" ]; then
    $_force || stage_error "$exp: holds results without --quick, which this would replace; give --force, or name other" \
      "folders with TOOLKIT_EXP and TOOLKIT_DATA"
    rm "$exp/.stages/.full"
  fi
  for ((_index = _first; _index <= _last; _index++)); do
    if [ "$_named" = ' ' ] || [[ $_named == *" $_index "* ]]; then
      run_stage "$_index" "$_force" "$stage_command${_words[*]+ ${_words[*]}}"
    fi
  done
}

# run_stage INDEX FORCE COMMAND: one stage, unless its stamp says that it is done. COMMAND is what the user typed.
run_stage() {
  local _name=${stage_names[$1 - 1]} _function=${stage_functions[$1 - 1]} _key _start _status
  local _state='' _before='' _spent='' # the stamp: drop, begun or done; key; seconds of tries that were interrupted
  local _label="stage $1/${#stage_names[@]} $_name" _stamp="$exp/.stages/$_name"
  _key=$(stage_key "$1") || exit 2
  if [ -f "$_stamp" ]; then read -r _state _before _spent < "$_stamp"; fi
  if [ "$_state $_before" = "done $_key" ] && ! $2; then
    echo "=== $_label: done before (--force does it again)"
    return
  fi
  if $2 || [ "$_state" = drop ] || [ "${_before:-$_key}" != "$_key" ]; then
    # Stays so until the stage has dropped what is there, however often it is interrupted before.
    _state=drop _spent=0
  else
    _state=begun _spent=${_spent:-0}
  fi
  mkdir -p "$exp/.stages" || exit 2
  $quick || : > "$exp/.stages/.full"
  echo "=== $_label: ${stage_texts[$1 - 1]} ($(date '+%H:%M:%S'))"
  echo "$_state $_key $_spent" > "$_stamp"
  _start=$SECONDS
  # shellcheck disable=SC2064  # as it is now
  trap "stage_pause $(printf %q "$_stamp") $_start" EXIT
  # Not in a condition: bash ignores `set -e` in whatever stands in one.
  (
    set -euo pipefail
    "$_function"
  )
  _status=$?
  if [ $_status -ne 0 ]; then
    echo "=== $_label: stopped with exit code $_status after $(stage_clock $((SECONDS - _start)));" \
      "to go on from here: $3" >&2
    exit $_status
  fi
  trap - EXIT
  echo "done $_key" > "$_stamp"
  stage_time "$_name" $((_spent + SECONDS - _start))
  echo "=== $_label: done in $(stage_clock $((SECONDS - _start)))"
}

# stage_drop PATH ...: for the start of a stage function; see above.
stage_drop() {
  if [ "$_state" = drop ]; then
    rm -rf "$@"
    echo "begun $_key $_spent" > "$_stamp"
  fi
}

# stage_pause STAMP START: adds the seconds since START to the stamp of a try that did not end.
stage_pause() {
  local state key spent
  read -r state key spent < "$1"
  echo "$state $key $((spent + SECONDS - $2))" > "$1"
}

# Prints a checksum of all that the result of stage INDEX depends on.
stage_key() {
  local _input _text
  _text="quick=$quick"$'\n'$(stage_code "${stage_functions[$1 - 1]}") || return
  while IFS= read -r _input; do
    [ -n "$_input" ] || continue
    case $_input in
      *\?)
        _input=${_input%\?}
        [ -f "$_input" ] || continue
        ;;
    esac
    [ -f "$_input" ] || stage_error "$_input: no such file, needed by stage ${stage_names[$1 - 1]}; run the stages before it," \
      "with --force if they are said to be done"
    _text="$_text"$'\n'$(cksum "$_input") || return
  done <<< "${stage_inputs[$1 - 1]}"
  printf '%s' "$_text" | cksum | tr ' ' '-'
}

# Prints the function, the recipe's functions that it calls, and the values of the variables in them.
stage_code() {
  local _todo="$1" _seen=' ' _body _word
  while [ -n "$_todo" ]; do
    _word=${_todo%% *} _todo=${_todo#"${_todo%% *}"} _todo=${_todo# }
    if [[ $_seen == *" $_word "* ]]; then continue; fi
    _seen="$_seen$_word "
    _body=$(declare -f "$_word") || stage_error "$_word: no such function in $(basename "$0")"
    printf '%s\n' "$_body"
    for _word in $(printf '%s' "$_body" | stage_commands); do
      if declare -F "$_word" > /dev/null && [[ $_word != stage* && $_word != run_stage* ]]; then
        _todo="${_todo:+$_todo }$_word"
      fi
    done
    for _word in $(printf '%s' "$_body" | grep -oE '\$\{?[#!]?[A-Za-z][A-Za-z0-9_]*' | tr -d '${#!' | sort -u); do
      case $_word in SECONDS | RANDOM | LINENO | BASHPID) continue ;; esac
      declare -p "$_word" 2> /dev/null || true
    done
  done
}

# Prints the first word of each command of a function's text, without repetition.
stage_commands() {
  tr ';|&(){}`' '\n' | awk '{
    first = 1
    while ($first ~ /^(if|then|else|elif|do|while|until|time|!)$/) first++
    if ($first ~ /^[A-Za-z_][A-Za-z0-9_-]*$/) print $first
  }' | sort -u
}

# stage_number WHAT WORD: prints the number of the stage that the word stands for, by number or name.
stage_number() {
  local index
  for ((index = 1; index <= ${#stage_names[@]}; index++)); do
    if [ "$2" = "$index" ] || [ "$2" = "${stage_names[index - 1]}" ]; then
      echo "$index"
      return
    fi
  done
  stage_error "$1 $2: no such stage; expected 1 to ${#stage_names[@]} or one of: ${stage_names[*]}"
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
  echo "$stage_command: error: $*" >&2
  exit 2
}
