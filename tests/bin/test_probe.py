"""The probe command from end to end, on tones whose letters are known and a small model."""

import json

import pytest
import torch

from toolkit.bin import probe
from toolkit.config import build
from toolkit.data.manifests import mono_cut, write_cuts
from toolkit.data.synthetic import LETTERS, synthetic_cuts
from toolkit.errors import UserError
from toolkit.tasks.load import save_model
from toolkit.tasks.ssl import SslConfig, SslTask

SPEECH = {
    "encoder": {
        "dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "feed_forward_dim": 16,
        "kernel_size": 3,
        "subsampling": 2,
        "subsampling_channels": 2,
    }
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, cuts of three parts, one of them with a cut that lacks its file, and an alignment."""
    folder = tmp_path_factory.mktemp("probe")
    task = SslTask(build(SslConfig, {"speech": SPEECH, "objective": {"num_classes": 14}}, "test"), folder, 0)
    torch.manual_seed(0)
    save_model(folder / "model", task.build_model(), task.config)
    cuts = list(synthetic_cuts(24, folder=folder / "corpus"))
    lost = mono_cut("lost", folder / "lost.flac", 16000, text="sun")
    for part, rows in {"train": cuts[:14], "valid": cuts[14:18], "test": [*cuts[18:], lost]}.items():
        write_cuts(folder / f"{part}.jsonl.gz", rows)
    write_cuts(folder / "other.jsonl.gz", [mono_cut("other", folder / "other.flac", 16000, text="sun")])
    with open(folder / "letters.ctm", "w") as file:
        print("lost 1 0.00 0.10 a", file=file)
        for cut in cuts:
            for index, label in enumerate(cut.load_labels()):
                if label:
                    print(cut.id, 1, f"{0.02 * index:.2f}", 0.02, LETTERS[label - 1], file=file)
    return folder


def run(place, *arguments, valid=True):
    parts = ("train", "valid", "test") if valid else ("train", "test")
    files = [part for name in parts for part in (f"--{name}-cuts", f"{place}/{name}.jsonl.gz")]
    out = place / "out.json"
    alignment = ["--alignment", f"{place}/letters.ctm", "--device", "cpu", "--json", str(out)]
    probe.main([*files, *alignment, *map(str, arguments)])
    return json.loads(out.read_text())


def test_mfcc_tell_letters(place, capsys):
    found = run(place, "--mfcc")
    assert found["mfcc"] and found["layer"] is None and found["num_tokens"] == len(LETTERS)
    assert found["accuracy"] > 0.8 > 0.3 > found["majority"] > 1 / 13
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
    assert (found["test_utterances"], found["skipped"]) == (6, 1)
    assert f"MFCC: {found['accuracy']:.2%} of {found['test_frames']} frames" in capsys.readouterr().out


def test_the_layer_is_chosen_by_the_validation_cuts(place, capsys):
    found = run(place, "--model", place / "model")
    assert [row["layer"] for row in found["layers"]] == [0, 1, 2]
    best = max(found["layers"], key=lambda row: row["valid_accuracy"])
    assert best == {name: found[name] for name in best}
    assert found["accuracy"] > found["majority"] + 0.2
    assert f"best by the validation cuts: layer {best['layer']}:" in capsys.readouterr().out
    one = run(place, "--model", place / "model", "--layer", best["layer"], valid=False)
    assert one["accuracy"] == best["accuracy"] and "valid_accuracy" not in one


def test_random_weights_are_others_and_come_again(place):
    trained, first, again, other = (
        run(place, "--model", place / "model", "--layer", 1, *init, valid=False)["accuracy"]
        for init in ((), ("--random-init", 3), ("--random-init", 3), ("--random-init", 4))
    )
    assert first == again
    assert len({trained, first, other}) == 3


def test_silence_is_a_token_if_it_is_named(place):
    found = run(place, "--mfcc", "--silence", "<sil>", "--frame-shift", 0.04, valid=False)
    assert found["num_tokens"] == len(LETTERS) + 1 and found["majority_token"] == "<sil>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "{}/model"], "--valid-cuts: found none, expected cuts to choose the layer by"),
        (["--model", "{}/model", "--layer", "3"], "layer: found 3, expected 0 .* to 2"),
        (["--model", "{}/model", "--layer", "-1"], "--layer: found '-1', expected a number or all"),
        (["--mfcc", "--layer", "1"], "found --layer or --random-init and --mfcc"),
        (["--mfcc", "--max-frames", "0"], "--max-frames: found 0"),
        (
            ["--mfcc", "--train-cuts", "{}/other.jsonl.gz"],
            "other.jsonl.gz: found no cut that .*letters.ctm has",
        ),
    ],
)
def test_what_does_not_fit_is_refused(place, arguments, message):
    with pytest.raises(UserError, match=message):
        run(place, *(text.format(place) for text in arguments), valid=False)
