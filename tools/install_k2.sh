#!/usr/bin/env bash
# Installs k2 from the wheel page of its project: the newest wheel made for this Python, PyTorch and CUDA.
#   tools/install_k2.sh
# k2 adds lattices and its pruned transducer loss; the toolkit works without it. PyPI has k2 for old versions only.
# K2_WHEELS names another copy of the page's folder, a URL.

root=$(cd "$(dirname "$0")/.." && pwd -P) || exit
. "$root/tools/environment.sh"
use_environment

# Prints the page and the version, or says on standard error what is missing.
found=$(python - "${K2_WHEELS:-https://k2-fsa.github.io/k2}" << 'END'
import re
import sys
import urllib.parse
import urllib.request
import torch

torch_version = torch.__version__.split("+")[0]
cuda = torch.version.cuda
page = f"{sys.argv[1]}/{'cuda' if cuda else 'cpu'}.html"
build = f"{'cuda' + cuda if cuda else 'cpu'}.torch{torch_version}"
python = "cp{}{}".format(*sys.version_info)
platform = {"linux": "linux", "darwin": "macosx", "win32": "win"}.get(sys.platform, sys.platform)
try:
    with urllib.request.urlopen(page, timeout=60) as reply:
        names = urllib.parse.unquote(reply.read().decode())
except OSError as error:
    sys.exit(f"k2 was not installed: {page} cannot be read ({error})")
wheel = rf"k2-([0-9][^-\s\"<>]*\+{re.escape(build)})-{python}-{python}-[^\s\"<>]*{platform}[^\s\"<>]*\.whl"
versions = set(re.findall(wheel, names))
if not versions:
    sys.exit(f"k2 was not installed: {page} has no wheel for {build}, {python}, {platform}")
print(page, max(versions, key=lambda version: [int(part) for part in re.findall(r"\d+", version)]))
END
) || exit 1

page=${found% *} version=${found##* }
echo "Installing k2 $version from $page."
python -m pip install "k2==$version" --find-links "$page" --constraint <(python -m pip list --format freeze | grep '^torch') ||
  { echo "k2 was not installed: pip failed, see its lines above" >&2 && exit 1; }
python -c 'import k2; print("k2", k2.__dev_version__, "is installed and imports")' ||
  { echo "k2 $version is installed but does not import; to remove it: python -m pip uninstall k2" >&2 && exit 1; }
