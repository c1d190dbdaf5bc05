"""Installs the package; `pip install -e ".[mini,test]"` is what run.sh and tests/run.sh do."""

import sys
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).resolve().parent
sys.path.insert(0, str(root))  # a build front end does not put the source tree on the path

from toolkit import __doc__ as summary  # noqa: E402
from toolkit import __version__  # noqa: E402
from toolkit.requirements import EXTRAS, PYTHON, REQUIRED  # noqa: E402

setup(
    name="toolkit",
    version=__version__,
    description=summary.splitlines()[0],
    license="Apache-2.0",
    python_requires=PYTHON,
    packages=find_packages(include=["toolkit", "toolkit.*"]),
    install_requires=list(REQUIRED),
    extras_require={extra: list(requirements) for extra, requirements in EXTRAS.items()},
)
