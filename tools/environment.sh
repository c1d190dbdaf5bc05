# shellcheck shell=bash
# The Python environment of the repository: found, made, filled. Sourced; needs $root, the root of the repository.
#
#   make_environment EXTRA ...   an environment with the requirements of the package and of these extras; made and
#                                filled where needed. Afterwards `python` is its Python.
#   use_environment              the same for a recipe: one that is there already, or a line that says how to make it.
#
# The environment is the one that TOOLKIT_VENV names, else .venv in the repository. What is complete is left as it is:
# no pip call, no network. Written for bash 3.2 and later.

venv=${TOOLKIT_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export PIP_DISABLE_PIP_VERSION_CHECK=1
export PYTHONUNBUFFERED=1 # what a command says shows at once, in a pipe too

make_environment() {
  if [ ! -e "$venv" ]; then
    find_python
    echo "Making a Python environment in $venv with $("$base_python" --version)."
    "$base_python" -m venv "$venv" || environment_error "$venv: could not be made; see the lines above"
  fi
  PATH=$venv/bin:$PATH
  if requirements_met "$venv/bin/python" "$@"; then
    echo "Using the environment $venv; it has all that is needed."
    return
  fi
  "$venv/bin/python" -I -m pip --version > /dev/null 2>&1 ||
    environment_error "$venv: is no working Python environment with pip; remove it and start again"
  local extras
  extras=$(IFS=, && echo "$*")
  if "$venv/bin/python" -c 'import torch' 2> /dev/null; then
    echo "Installing what is missing into $venv ($extras)."
  else
    enough_space "$venv" 7
    enough_space "${TMPDIR:-/tmp}" 4
    echo "Installing the toolkit and what it needs ($extras): PyTorch with its CUDA libraries takes 4.6 GB," \
      "about 2.1 GB to download; a few minutes on a fast line."
  fi
  # -I: pip should see the environment alone, not what PYTHONPATH or the current folder add to it.
  "$venv/bin/python" -I -m pip install --editable "${root}[$extras]" ||
    environment_error "pip could not install what is needed; see its lines above, then start again"
  requirements_met "$venv/bin/python" "$@" || environment_error "$venv: still incomplete after pip; remove it and start again"
}

use_environment() {
  # An environment that is named is used, whatever else is there.
  if [ -z "${TOOLKIT_VENV:-}" ] && requirements_met python; then return; fi
  PATH=$venv/bin:$PATH
  { [ -x "$venv/bin/python" ] && requirements_met python; } || environment_error "no Python environment with the toolkit's requirements in ${TOOLKIT_VENV:-PATH or $venv};" \
    "make one with: $root/run.sh --stop-stage 1, or: pip install -e $root"
}

# requirements_met PYTHON EXTRA ...: whether this Python has all requirements and those of the extras in tested versions.
requirements_met() {
  "$1" - "${@:2}" 2> /dev/null << 'END'
import sys
from toolkit.requirements import check
wanted = [part for extra in [None, *sys.argv[1:]] for part in check(extra)]
sys.exit(not all(part.ok for part in wanted))
END
}

# Sets base_python to a Python that can make the environment.
find_python() {
  local candidate incomplete=''
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
    "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2> /dev/null || continue
    if "$candidate" -c 'import ensurepip, venv' 2> /dev/null; then
      base_python=$candidate
      return
    fi
    incomplete=$candidate
  done
  if [ -n "$incomplete" ]; then
    environment_error "$($incomplete --version) has no venv module (Debian and Ubuntu: apt-get install python3-venv);" \
      "or name another Python 3.10 to 3.13 with PYTHON=..."
  fi
  environment_error "no Python 3.10 to 3.13 found; install one, or name it with PYTHON=..., or name an environment" \
    "with TOOLKIT_VENV=..."
}

# enough_space PATH GIGABYTES: says how much is free there; stops if that is too little.
enough_space() {
  local free
  free=$(df -Pk "$1" | awk 'NR == 2 { printf "%d", $4 / 1e6 }')
  echo "Free disk space in $1: $free GB ($2 needed)."
  [ "$free" -ge "$2" ] || environment_error "$1: $free GB free, $2 needed; free some, or set TOOLKIT_VENV or TMPDIR"
}

environment_error() {
  echo "error: $*" >&2
  exit 2
}
