#!/usr/bin/env bash
# Builds and installs kaldifeat, a further backend for features, from its source package on PyPI.
#   tools/install_kaldifeat.sh
# Needs a C++17 compiler and Python's headers; neither CMake nor a CUDA toolkit, since PyTorch's own extension builder
# compiles it against the installed PyTorch. Takes about 7 minutes on one core (MAX_JOBS sets how many are used).

set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd -P)
. "$root/tools/environment.sh"
use_environment

stop() {
  echo "kaldifeat was not installed: $*" >&2
  exit 1
}

version=1.24
compiler=${CXX:-c++}
command -v "$compiler" > /dev/null || stop "no C++ compiler '$compiler' (Debian and Ubuntu: apt-get install g++)"
python -c 'import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())' ||
  stop "Python's headers are missing (Debian and Ubuntu: apt-get install python3-dev)"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m pip install "setuptools<82" wheel ninja || stop "pip could not install setuptools, wheel and ninja"
python -m pip download "kaldifeat==$version" --no-deps --no-binary kaldifeat --no-build-isolation --dest "$folder" ||
  stop "its source package could not be fetched"
tar -xzf "$folder/kaldifeat-$version.tar.gz" -C "$folder"
source="$folder/kaldifeat-$version"

# In place of the package's own setup.py, which runs CMake and downloads pybind11 (PyTorch brings it along).
cat > "$source/setup.py" << END
from glob import glob
import torch
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

with open("kaldifeat/python/kaldifeat/torch_version.py", "w") as file:
    file.write(f'kaldifeat_torch_version = "{torch.__version__}"\n')
major, minor = torch.__version__.split(".")[:2]
sources = [path for path in glob("kaldifeat/csrc/*.cc") if "test" not in path] + glob("kaldifeat/python/csrc/*.cc")
extension = CppExtension(
    "_kaldifeat",
    sources,
    include_dirs=["$source"],
    define_macros=[("KALDIFEAT_TORCH_VERSION_MAJOR", major), ("KALDIFEAT_TORCH_VERSION_MINOR", minor)],
    extra_compile_args=["-O2", "-w"],
)
setup(
    name="kaldifeat",
    version="$version",
    packages=["kaldifeat"],
    package_dir={"kaldifeat": "kaldifeat/python/kaldifeat"},
    ext_modules=[extension],
    cmdclass={"build_ext": BuildExtension},
)
END
echo "Compiling kaldifeat $version for PyTorch $(python -c 'import torch; print(torch.__version__)')."
python -m pip install --no-deps --no-build-isolation "$source" || stop "it did not compile, see the lines above"

cd /  # so that nothing here is taken for the installed package
python - << 'END' || stop "it compiled, but its features are wrong; to remove it: python -m pip uninstall kaldifeat"
import kaldifeat
import torch

options = kaldifeat.FbankOptions()
options.frame_opts.dither = 0.0
features = kaldifeat.Fbank(options)(torch.sin(torch.arange(16000) * 0.3))
assert features.shape == (98, 23) and features.isfinite().all()
print("kaldifeat", kaldifeat.__version__, "is installed and computes features")
END
