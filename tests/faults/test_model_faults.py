"""Bad model directories, checkpoints, codebooks and embeddings."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.faults import harness
from tests.faults.harness import Content, Desk, Fault, copy_of, start_of
from toolkit import checkpoint

WAV = "audio/synthetic-0-0001.flac"
KMEANS = "kmeans --cuts cuts.jsonl.gz --out new --clusters"
LABEL = "label --cuts cuts.jsonl.gz --out new --kmeans"


def model(name: str, expect: str, changes: Mapping[str, Content | None], task: str = "asr") -> Fault:
    """A row for a model directory that is all right but for some files."""
    command = {"asr": "decode", "speaker": "embed --output new"}[task]
    return Fault(
        name,
        f"{command} --model m {WAV}",
        f"^{command.split()[0]}: error: {expect}",
        {"m": copy_of(task, changes)},
    )


def config_with(line: str, task: str = "asr") -> Content:
    """The config.yaml of a task's model with a line in the place of its first."""
    return lambda path: path.write_text(line + Path(task, "config.yaml").read_text().partition("\n")[2])


def weights_of(task: str) -> Content:
    return lambda path: path.write_bytes(Path(task, "model.safetensors").read_bytes())


def tensors(change: str) -> Content:
    """The speaker model with other tensors."""

    def make(path: Path) -> None:
        found, meta = checkpoint.load("asr/model.safetensors")
        name = "speech.encoder.mask_embedding"
        value = found.pop(name)
        checkpoint.save(path, {**found, **({} if change == "missing" else {name: value[:3]})}, meta)

    return make


def codebook(num_features: int, dropped: str = "") -> Content:
    """A codebook for so many features, without a key of its metadata."""

    def make(path: Path) -> None:
        found, old = checkpoint.load("codebook")
        checkpoint.save(
            path,
            {"centroids": found["centroids"][:, :num_features]},
            {key: old[key] for key in old if key != dropped},
        )

    return make


MODELS = [
    Fault(
        "no model directory",
        f"decode --model gone {WAV}",
        "gone: not a model directory, expected config.yaml",
    ),
    Fault("file for a model directory", f"decode --model ref {WAV}", "ref: not a model directory, expected"),
    Fault("experiment for a model directory", f"decode --model exp/asr {WAV}", "exp/asr/.*: no such file"),
    model("no config.yaml", "m: not a model directory, expected config.yaml", {"config.yaml": None}),
    model("config.yaml is no YAML", r"m/config.yaml:\d: not YAML", {"config.yaml": "{"}),
    model(
        "config.yaml of an unknown task",
        "m/config.yaml: task: found 'tts', expected one of",
        {"config.yaml": config_with("task: tts\n")},
    ),
    model(
        "config.yaml of a later version",
        "m/config.yaml: unknown key beam",
        {"config.yaml": config_with("task: asr\nbeam: 4\n")},
    ),
    model("no weights", "m/model.safetensors: no such file", {"model.safetensors": None}),
    model(
        "weights of zero bytes",
        r"m/model.safetensors: damaged checkpoint \(0 bytes",
        {"model.safetensors": b""},
    ),
    model(
        "weights cut short",
        "m/model.safetensors: damaged checkpoint",
        {"model.safetensors": start_of("asr/model.safetensors", 0.9)},
    ),
    model(
        "weights cut short in the header",
        "m/model.safetensors: damaged",
        {"model.safetensors": start_of("asr/model.safetensors", 0.01)},
    ),
    model(
        "text for weights", "m/model.safetensors: damaged checkpoint", {"model.safetensors": "weights\n" * 99}
    ),
    model("folder for weights", "m/model.safetensors: no such file", {"model.safetensors": harness.folder}),
    model(
        "weights of another task",
        "m/model.safetensors: weights of another model: .*missing .*unknown",
        {"model.safetensors": weights_of("speaker")},
    ),
    model(
        "weights of another size",
        r"m/model.safetensors: weights of .*speech.encoder.mask_embedding \(3,\) instead",
        {"model.safetensors": tensors("smaller")},
    ),
    model(
        "weights without a tensor",
        r"m/model.safetensors: .*1 missing .speech.encoder.mask_embedding",
        {"model.safetensors": tensors("missing")},
    ),
    model(
        "no tokens", "m/tokens.txt: no such file, expected the tokens of a recogniser", {"tokens.txt": None}
    ),
    model(
        "tokens out of order",
        "m/tokens.txt:2: found 'a 7', expected a symbol and the id 1",
        {"tokens.txt": "<blk> 0\na 7\n"},
    ),
    model(
        "tokens cut short",
        "m/model.safetensors: weights of another model: .*of another shape",
        {"tokens.txt": "<blk> 0\n<unk> 1\n"},
    ),
    model("tokens not in UTF-8", "m/tokens.txt: .*UTF-8", {"tokens.txt": b"<blk> 0\n\xe9 1\n"}),
    model(
        "damaged sentencepiece model",
        "m/tokenizer.model: .*sentencepiece",
        {"tokenizer.model": b"\x00nonsense"},
    ),
    model(
        "no speakers",
        "m/speakers.txt: no such file, expected the speakers",
        {"speakers.txt": None},
        "speaker",
    ),
    model(
        "other number of speakers",
        "m/model.safetensors: .*of another shape",
        {"speakers.txt": "a\nb\nc\n"},
        "speaker",
    ),
    Fault(
        "decode with a speaker model",
        f"decode --model speaker {WAV}",
        "speaker: found a model of the task 'speaker', expected 'asr'",
    ),
    Fault(
        "decode with a pretrained model",
        f"decode --model ssl {WAV}",
        "ssl: found a model of the task 'ssl', expected 'asr'",
    ),
    Fault(
        "embed with a recogniser",
        f"embed --output new --model asr {WAV}",
        "asr: found a model of the task 'asr', expected 'speaker'",
    ),
    Fault(
        "verify with a recogniser",
        f"verify --model asr {WAV} {WAV}",
        "asr: found a model of the task 'asr', expected 'speaker'",
    ),
    Fault(
        "diarize with swapped models",
        f"diarize --model speaker --speaker-model diarization {WAV}",
        "speaker: found a model of the task 'speaker', expected 'diarization'",
    ),
    Fault(
        "diarize with a recogniser for the speakers",
        f"diarize --model diarization --speaker-model asr {WAV}",
        "asr: found a model of the task 'asr'",
    ),
    Fault(
        "no such device",
        f"decode --model asr --device abacus {WAV}",
        "device: found 'abacus', which this machine does not have",
    ),
    Fault(
        "clusters of a layer that is not there",
        f"{KMEANS} 2 --model ssl --layer 2",
        "layer: found 2, expected 0 .* to 1",
    ),
    Fault(
        "clusters of a negative layer",
        f"{KMEANS} 2 --model ssl --layer -1",
        "layer: found -1, expected 0 .* to 1",
    ),
    Fault(
        "clusters of a model without a layer",
        f"{KMEANS} 2 --model ssl",
        "found one of --model and --layer, expected both",
    ),
    Fault("clusters of no model", f"{KMEANS} 2 --model gone --layer 0", "gone: not a model directory"),
    Fault(
        "more clusters than frames",
        f"{KMEANS} 9999",
        r"clusters: found 9999, expected at most \d+, the number of frames",
    ),
    Fault("no cluster", f"{KMEANS} 0", "clusters: found 0, expected 1 to 32767"),
    Fault(
        "frame shift between two frames",
        f"{KMEANS} 2 --frame-shift 0.013",
        "frame-shift: found 0.013 s, expected a multiple of 0.01 s",
    ),
    Fault("share of none of the cuts", f"{KMEANS} 2 --portion 0", "portion: found 0.0, expected"),
    Fault("no codebook", f"{LABEL} gone", "gone: no such file"),
    Fault(
        "model for a codebook",
        f"{LABEL} asr/model.safetensors",
        "asr/model.safetensors: holds no k-means codebook",
    ),
    Fault("codebook cut short", f"{LABEL} k", "k: damaged checkpoint", {"k": start_of("codebook")}),
    Fault(
        "codebook of another dimension",
        f"{LABEL} k",
        r"codebook: found features \(\d+, 39\), expected \(N, 7\)",
        {"k": codebook(7)},
    ),
    Fault(
        "codebook without its features", f"{LABEL} k", "k: names no features", {"k": codebook(39, "features")}
    ),
    Fault(
        "codebook of another model",
        f"{LABEL} layer_codebook --model asr",
        "asr/model.safetensors: another model than the one that was clustered",
    ),
    Fault(
        "codebook whose model is gone",
        f"{LABEL} layer_codebook --model gone",
        "gone/model.safetensors: no such file",
    ),
    Fault(
        "no checkpoints to average",
        "average --exp gone --output new",
        "gone/checkpoints: found no checkpoint, expected those",
    ),
    Fault(
        "too few checkpoints to average",
        "average --exp exp/asr --output new --last 3",
        "--last: found 3, expected 1 to 2",
    ),
    Fault("no embeddings", "verify --trials trials --embeddings gone --output new", "gone: no such file"),
    Fault(
        "embeddings cut short",
        "verify --trials trials --embeddings e --output new",
        "e: damaged checkpoint",
        {"e": start_of("embeddings")},
    ),
    Fault(
        "model for embeddings",
        "verify --trials trials --embeddings asr/model.safetensors --output new",
        "asr/model.safetensors: .*expected",
    ),
]


@pytest.mark.parametrize("fault", MODELS, ids=lambda fault: fault.name)
def test_refused(fault: Fault, desk: Desk) -> None:
    desk.refuses(fault)
    assert not (desk.folder / "new").is_file()


def test_labels_of_another_codebook_are_kept(desk: Desk) -> None:
    desk.put({"old": copy_of("labels", {})})
    before = {path: path.read_bytes() for path in (desk.folder / "old").rglob("*") if path.is_file()}
    expect = "old/recipe.json: labels of another kmeans.*; expected an empty folder or the same"
    desk.refuses(
        Fault(
            "folder of other labels", "label --cuts cuts.jsonl.gz --out old --kmeans layer_codebook", expect
        )
    )
    assert {path: path.read_bytes() for path in (desk.folder / "old").rglob("*") if path.is_file()} == before


STEPS = ["checkpoints/step-00000001.safetensors", "checkpoints/step-00000002.safetensors"]


@pytest.mark.parametrize(
    "content", [b"", "text\n" * 99, start_of(f"exp/asr/{STEPS[1]}", 0.9)], ids=["empty", "text", "cut"]
)
def test_damaged_checkpoint_is_passed_over(content: Content, desk: Desk, stock: Path) -> None:
    """Training goes on from the last whole checkpoint, to the same result."""
    desk.put({"old": copy_of("exp/asr", {STEPS[1]: content, "model/model.safetensors": None})})
    result = desk.works("train --config asr.yaml --exp old")
    assert f"passed over old/{STEPS[1]}: damaged checkpoint" in result.out
    assert f"going on from old/{STEPS[0]}" in result.out
    assert (desk.folder / "old/model/model.safetensors").read_bytes() == (
        stock / "exp/asr/model/model.safetensors"
    ).read_bytes()


def test_no_whole_checkpoint(desk: Desk) -> None:
    desk.put({"old": copy_of("exp/asr", dict.fromkeys(STEPS, b"half"))})
    expect = (
        "old/.*2.safetensors: damaged checkpoint .*; no other checkpoint to go on from, --restart begins anew"
    )
    desk.refuses(Fault("no whole checkpoint", "train --config asr.yaml --exp old", expect))
    desk.works("train --config asr.yaml --exp old --restart")


def test_checkpoint_that_is_another_file(desk: Desk) -> None:
    other = lambda path: path.write_bytes(Path("asr/model.safetensors").read_bytes())  # noqa: E731
    desk.put({"old": copy_of("exp/asr", {STEPS[1]: other})})
    expect = "old/checkpoints/step-00000002.safetensors: holds no state of training, expected"
    desk.refuses(Fault("model for a checkpoint", "train --config asr.yaml --exp old", expect))
