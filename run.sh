#!/usr/bin/env bash
# Makes the Python environment and runs the recipe egs/mini, from raw recordings to exp/mini/report.html.
# The arguments are the recipe's; ./run.sh --help lists them. TOOLKIT_VENV names an environment to use instead of .venv,
# TOOLKIT_EXP and TOOLKIT_DATA folders to use instead of exp/mini and data/mini.

root=$(cd "$(dirname "$0")" && pwd -P) || exit
export TOOLKIT_EXP="${TOOLKIT_EXP:-$root/exp/mini}"
export TOOLKIT_DATA="${TOOLKIT_DATA:-$root/data/mini}"
export TOOLKIT_COMMAND="$0"
. "$root/tools/environment.sh"

# A mistyped argument should show before minutes of installing.
help=$("$root/egs/mini/run.sh" "$@" --help) || exit
case " $* " in *" --help "* | *" -h "*) echo "$help" && exit ;; esac

make_environment mini
exec "$root/egs/mini/run.sh" "$@"
