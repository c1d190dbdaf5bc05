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
# A fixed hash seed and few threads: the same on every machine.
export PYTHONHASHSEED=0
if [ $# -eq 0 ]; then
  # All of them: in several processes with a thread each. A file stays together, for what its tests share.
  processes=$(python -c 'from toolkit.processes import num_cores; print(min(num_cores(), 4))') || exit
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
  set -- --numprocesses "$processes" --dist loadfile
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
echo "Testing: python -m pytest $*"
exec python -m pytest --durations 10 "$@"
