#!/usr/bin/env bash
# Makes the Python environment and runs the tests: tests/run.sh [--slow | --gpu] [pytest arguments]
#   --slow   the tests that take minutes as well
#   --gpu    only the tests that need a CUDA device
# TOOLKIT_VENV names an environment to use instead of .venv.

root=$(cd "$(dirname "$0")/.." && pwd -P) || exit
. "$root/tools/environment.sh"
make_environment mini test

case ${1:-} in
  --slow) set -- -m "not gpu" "${@:2}" ;;
  --gpu) set -- -m gpu "${@:2}" ;;
esac
cd "$root" || exit
# A fixed hash seed and few threads: the same on every machine, and no slower on 2 cores.
export PYTHONHASHSEED=0 OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
echo "Testing: python -m pytest $*"
exec python -m pytest --durations 10 "$@"
