"""Bad model directories, checkpoints, codebooks and embeddings."""

from pathlib import Path

import pytest

from tests.faults import harness
from tests.faults.harness import Content, Desk, Fault, copy_of, start_of
from toolkit import checkpoint

WAV = "audio/synthetic-0-0001.flac"
CUTS = "--cuts cuts.jsonl.gz"


def config_with(start: str) -> Content:
    """The config.yaml of the recogniser with another start."""
    return lambda path: path.write_text(start + Path("asr/config.yaml").read_text().removeprefix("task: asr"))


def mask_embedding(size: int) -> Content:
    """The weights of the recogniser with another size of one tensor, or without it."""

    def make(path: Path) -> None:
        found, meta = checkpoint.load("asr/model.safetensors")
        name = "speech.encoder.mask_embedding"
        value = found.pop(name)
        if size:
            found[name] = value[:size]
        checkpoint.save(path, found, meta)

    return make


def codebook(num_features: int, dropped: str = "") -> Content:
    """A codebook for so many features, without a key of its metadata."""

    def make(path: Path) -> None:
        found, meta = checkpoint.load("codebook")
        meta.pop(dropped, None)
        checkpoint.save(path, {"centroids": found["centroids"][:, :num_features]}, meta)

    return make


# Kind -> task, file of its model directory, what it holds instead (None: it is not there), complaint after its name.
SPOILT: dict[str, tuple[str, str, Content | None, str]] = {
    "config.yaml is no YAML": ("asr", "config.yaml", "{", r":\d: not YAML"),
    "config.yaml of an unknown task": ("asr", "config.yaml", config_with("task: tts"), ": task: found 'tts'"),
    "config.yaml of another version": (
        "asr",
        "config.yaml",
        config_with("task: asr\nbeam: 4"),
        ": unknown key beam",
    ),
    "no weights": ("asr", "model.safetensors", None, ": no such file, expected a checkpoint"),
    "weights of zero bytes": ("asr", "model.safetensors", b"", r": damaged checkpoint \(0 bytes"),
    "weights cut short": (
        "asr",
        "model.safetensors",
        start_of("asr/model.safetensors", 0.9),
        ": damaged check",
    ),
    "header of weights cut short": (
        "asr",
        "model.safetensors",
        start_of("asr/model.safetensors", 0.01),
        ": damaged",
    ),
    "text for weights": ("asr", "model.safetensors", "weights\n" * 99, ": damaged checkpoint"),
    "folder for weights": ("asr", "model.safetensors", harness.folder, ": no such file"),
    "weights of another task": (
        "asr",
        "model.safetensors",
        start_of("speaker/model.safetensors", 1),
        ": weights of another model: ",
    ),
    "weights of another size": (
        "asr",
        "model.safetensors",
        mask_embedding(3),
        r": weights .*\(3,\) instead of \(16,\)",
    ),
    "weights without a tensor": (
        "asr",
        "model.safetensors",
        mask_embedding(0),
        ": weights .*1 missing .speech.enc",
    ),
    "no tokens": ("asr", "tokens.txt", None, ": no such file, expected the tokens of a recogniser"),
    "tokens out of order": (
        "asr",
        "tokens.txt",
        "<blk> 0\na 7\n",
        ":2: found 'a 7', expected a symbol and the id 1",
    ),
    "tokens not in UTF-8": (
        "asr",
        "tokens.txt",
        b"<blk> 0\n\xe9 1\n",
        ": not a UTF-8 text file, expected the tokens",
    ),
    "tokenizer of no type": (
        "asr",
        "tokenizer.yaml",
        "type: letters\n",
        ": type: found 'letters', expected one of 'char', 'sentencepiece', 'phone'",
    ),
    "unknown step of normalisation": (
        "asr",
        "tokenizer.yaml",
        "type: char\nnormalize: [small]\n",
        ": top level: normalize: found 'small', expected steps among nfc, ",
    ),
    "no speakers": ("speaker", "speakers.txt", None, ": no such file, expected the speakers"),
    "speakers not in UTF-8": (
        "speaker",
        "speakers.txt",
        b"\xe9\n",
        ": not a UTF-8 text file, expected the speakers",
    ),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_spoilt_model_directory(kind: str, desk: Desk) -> None:
    task, file, content, complaint = SPOILT[kind]
    command = {"asr": f"decode --model m {WAV}", "speaker": f"embed --model m --output new {WAV}"}[task]
    assert not desk.flaws(Fault(kind, command, f"m/{file}{complaint}", {"m": copy_of(task, {file: content})}))
    assert not (desk.folder / "new").exists()


def test_damaged_sentencepiece_model(desk: Desk) -> None:
    spoilt = copy_of("asr", {"tokenizer.yaml": "type: sentencepiece\n", "tokenizer.model": b"\x00"})
    expect = "m/tokenizer.model: empty or damaged, expected a sentencepiece"
    assert not desk.flaws(Fault("model", f"decode --model m {WAV}", expect, {"m": spoilt}))


@pytest.mark.parametrize(("task", "file"), [("asr", "tokens.txt"), ("speaker", "speakers.txt")])
def test_names_that_do_not_fit_the_weights(task: str, file: str, desk: Desk) -> None:
    """The complaint names the weights, as nothing tells which of the two files is the wrong one."""
    command = {"asr": f"decode --model m {WAV}", "speaker": f"embed --model m --output new {WAV}"}[task]
    expect = r"m/model.safetensors: weights of another model: \d of another shape"
    names = {file: "<blk> 0\n<unk> 1\n"}
    assert not desk.flaws(Fault("names", command, expect, {"m": copy_of(task, names)}))


KMEANS = f"kmeans {CUTS} --out new --clusters"
LABEL = f"label {CUTS} --out new --kmeans"
VERIFY = "verify --trials trials --output new --embeddings"
MODEL = "asr/model.safetensors"

# Kind -> command, complaint.
MISPLACED: dict[str, tuple[str, str]] = {
    "no model directory": (
        f"decode --model gone {WAV}",
        "gone: not a model directory, expected config.yaml and",
    ),
    "file for a model directory": (
        f"decode --model ref {WAV}",
        "ref: not a model directory, expected config",
    ),
    "folder for a model directory": (f"decode --model audio {WAV}", "audio: not a model directory, expected"),
    "experiment for a model directory": (f"decode --model exp/asr {WAV}", "exp/asr/.*: no such file"),
    "decode with a speaker model": (
        f"decode --model speaker {WAV}",
        "speaker: found a model of the task 'speaker'",
    ),
    "decode with a pretrained model": (
        f"decode --model ssl {WAV}",
        "ssl: found .*task 'ssl', expected 'asr'",
    ),
    "embed with a recogniser": (
        f"embed --output new --model asr {WAV}",
        "asr: found .*'asr', expected 'speaker'",
    ),
    "verify with a recogniser": (f"verify --model asr {WAV} {WAV}", "asr: found .*'asr', expected 'speaker'"),
    "diarize with swapped models": (
        f"diarize --model speaker --speaker-model diarization {WAV}",
        "speaker: found a model of the task 'speaker', expected 'diarization'",
    ),
    "diarize with a recogniser for speakers": (
        f"diarize --model diarization --speaker-model asr {WAV}",
        "asr: found a model of the task 'asr', expected 'speaker'",
    ),
    "no such device": (
        f"decode --model asr --device abacus {WAV}",
        "device: found 'abacus', which this machine",
    ),
    "clusters of a layer that is not there": (
        f"{KMEANS} 2 --model ssl --layer 2",
        "layer: found 2, expected 0 .* to 1",
    ),
    "clusters of a layer below 0": (
        f"{KMEANS} 2 --model ssl --layer -1",
        "layer: found -1, expected 0 .* to 1",
    ),
    "clusters of a model without a layer": (
        f"{KMEANS} 2 --model ssl",
        "found one of --model and --layer, expected",
    ),
    "clusters of no model": (f"{KMEANS} 2 --model gone --layer 0", "gone: not a model directory"),
    "more clusters than frames": (
        f"{KMEANS} 9999",
        r"clusters: found 9999, expected at most \d+, the number of frames",
    ),
    "no cluster": (f"{KMEANS} 0", "clusters: found 0, expected 1 to 32767"),
    "frame shift between frames": (
        f"{KMEANS} 2 --frame-shift 0.013",
        "found 0.013 s, expected a multiple of 0.01 s",
    ),
    "share of none of the cuts": (
        f"{KMEANS} 2 --portion 0",
        "--portion: found 0.0, expected a share above 0",
    ),
    "no codebook": (f"{LABEL} gone", "gone: no such file"),
    "model for a codebook": (f"{LABEL} {MODEL}", f"{MODEL}: holds no k-means codebook, expected"),
    "codebook of another model": (
        f"{LABEL} layer_codebook --model asr",
        f"{MODEL}: another model than the one",
    ),
    "codebook whose model is gone": (
        f"{LABEL} layer_codebook --model gone",
        "gone/model.safetensors: no such file",
    ),
    "no checkpoints to average": (
        "average --exp gone --output new",
        "gone/checkpoints: found no checkpoint, expected",
    ),
    "too few to average": ("average --exp exp/asr --output new --last 3", "--last: found 3, expected 1 to 2"),
    "no embeddings": (f"{VERIFY} gone", "gone: no such file"),
    "model for embeddings": (f"{VERIFY} {MODEL}", f"{MODEL}: .*expected"),
}


@pytest.mark.parametrize("kind", MISPLACED)
def test_misplaced(kind: str, desk: Desk) -> None:
    command, complaint = MISPLACED[kind]
    assert not desk.flaws(Fault(kind, command, complaint))
    assert not (desk.folder / "new").is_file()


# Kind -> command whose last word is x, content of x, complaint.
DAMAGED: dict[str, tuple[str, Content, str]] = {
    "codebook cut short": (f"{LABEL} x", start_of("codebook"), "x: damaged checkpoint"),
    "codebook of another dimension": (
        f"{LABEL} x",
        codebook(7),
        r"found features \(\d+, 39\), expected \(N, 7\)",
    ),
    "codebook without its features": (
        f"{LABEL} x",
        codebook(39, "features"),
        "x: names no features, expected",
    ),
    "embeddings cut short": (f"{VERIFY} x", start_of("embeddings"), "x: damaged checkpoint"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged(kind: str, desk: Desk) -> None:
    command, content, complaint = DAMAGED[kind]
    assert not desk.flaws(Fault(kind, command, complaint, {"x": content}))


def test_labels_of_another_codebook_are_kept(desk: Desk) -> None:
    desk.put({"old": copy_of("frame_labels", {})})
    before = {path: path.read_bytes() for path in (desk.folder / "old").rglob("*") if path.is_file()}
    expect = "old/recipe.json: labels of another kmeans.*; expected an empty folder or the same"
    assert not desk.flaws(
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
    assert not desk.flaws(Fault("no whole checkpoint", "train --config asr.yaml --exp old", expect))
    desk.works("train --config asr.yaml --exp old --restart")


def test_checkpoint_that_is_another_file(desk: Desk) -> None:
    desk.put({"old": copy_of("exp/asr", {STEPS[1]: start_of("asr/model.safetensors", 1)})})
    expect = "old/checkpoints/step-00000002.safetensors: holds no state of training, expected"
    assert not desk.flaws(Fault("model for a checkpoint", "train --config asr.yaml --exp old", expect))


def test_checkpoints_of_two_models_have_no_average(desk: Desk) -> None:
    desk.put({"old": copy_of("exp/asr", {STEPS[1]: start_of(f"exp/speaker/{STEPS[1]}", 1)})})
    expect = "old/checkpoints/step-00000002.safetensors: holds other tensors than .*, expected checkpoints of one model"
    assert not desk.flaws(Fault("two models", "average --exp old --output new", expect))


@pytest.mark.parametrize("name", ["metrics.jsonl", "skipped.jsonl", "log.txt"])
def test_records_cut_short(name: str, desk: Desk) -> None:
    """A machine that went down in the middle of a line keeps nobody from going on."""
    desk.put({"old": copy_of("exp/asr", {STEPS[1]: None, name: '{"step": 1, "los'})})
    desk.works("train --config asr.yaml --exp old")
    assert (desk.folder / "old" / STEPS[1]).is_file()
