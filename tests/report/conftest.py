"""A small experiment with every kind of file that a report shows; the scoring commands write theirs."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from toolkit.bin import score

DESCRIPTION = """
title: Everything <at once> & more
text: A small experiment.
results:
  - {name: scratch, file: asr-scratch/wer.json, data: real}
  - {name: pretrained, file: asr/wer.json, data: real, set: test-a, metrics: [WER, difference]}
  - {name: "x<y>", file: speaker/eer.json, data: tts}
  - {name: diarizer, file: diarization/der.json, data: sim}
  - {name: labels, file: labels/quality.json, data: real}
  - {name: recipe, file: times.jsonl, metrics: [train, all stages]}
sections:
  - kind: curves
    title: Training
    text: <script>alert(1)</script>
    runs: {scratch: asr-scratch, "pre<b>": asr}
  - kind: curves
    title: Training
    runs: {scratch: asr-scratch/metrics.jsonl}
    values: {loss: CTC loss}
    log_x: true
  - kind: wer
    systems: {scratch: asr-scratch/wer.json, pretrained: asr/wer.json}
    details: {scratch: asr-scratch/wer.txt, pretrained: asr/wer.txt}
    examples: 2
  - {kind: det, scores: {real: speaker/scores}, trials: {real: "{data}/trials"}}
  - {kind: timeline, reference: diarization/ref.rttm, hypothesis: diarization/hyp.rttm}
  - {kind: alignment, cuts: "{data}/cuts.jsonl.gz", ctm: asr/align.ctm, posteriors: asr/posteriors}
  - {kind: quality, iterations: {iteration 1: labels/quality.json}}
  - {kind: times}
"""


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment folder, with its data in `data` below it. Tests must not change it."""
    exp = tmp_path_factory.mktemp("mini")
    _write(exp / "report.yaml", DESCRIPTION)
    _training(exp)
    _recognition(exp)
    _verification(exp)
    _diarization(exp)
    _alignment(exp)
    quality = {"num_frames": 900, "num_clusters": 8, "usage_entropy": 0.9, "reference_frames": 800}
    quality |= {"purity": 0.4567, "cluster_purity": 0.3, "pnmi": 0.25}
    _write(exp / "labels/quality.json", json.dumps(quality))
    _write(exp / "times.jsonl", '{"stage": "fetch", "seconds": 4.5}\n{"stage": "train", "seconds": 120}\n')
    return exp


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _training(exp: Path) -> None:
    for name, best in (("asr-scratch", 1.0), ("asr", 0.5)):
        rows = [
            {"step": s, "epoch": 1, "split": "train", "loss": best + 1 / s, "lr": 1e-3} for s in range(1, 30)
        ]
        rows += [
            {"step": s, "epoch": 1, "split": "valid", "loss": best + 2 / s, "accuracy": 0.5} for s in (10, 20)
        ]
        _write(exp / name / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _recognition(exp: Path) -> None:
    _write(exp / "data/text", "u1 one two <three>\nu2 four five\nu3 six\nu4 seven eight nine\n")
    _write(exp / "asr-scratch/hyp", "u1 one too <three>\nu2 four\nu3 six six\nu4 ate seven nine\n")
    _write(exp / "asr/hyp", "u1 one two <three>\nu2 four\nu3 six\nu4 seven eight nine\n")
    for name, more in (("asr-scratch", []), ("asr", ["--baseline", f"{exp}/asr-scratch/hyp"])):
        files = ["--json", f"{exp}/{name}/wer.json", "--details", f"{exp}/{name}/wer.txt"]
        score.main(["wer", "--ref", f"{exp}/data/text", "--hyp", f"{exp}/{name}/hyp", *files, *more])


def _verification(exp: Path) -> None:
    scores = np.random.default_rng(0).normal(size=60) + np.repeat([1.5, 0.0], [20, 40])
    kinds = ["target"] * 20 + ["nontarget"] * 40
    _write(exp / "data/trials", "".join(f"e{i} t{i} {kind}\n" for i, kind in enumerate(kinds)))
    _write(exp / "speaker/scores", "".join(f"e{i} t{i} {value:.4f}\n" for i, value in enumerate(scores)))
    files = ["--trials", f"{exp}/data/trials", "--scores", f"{exp}/speaker/scores"]
    score.main(["eer", *files, "--json", f"{exp}/speaker/eer.json"])


def _diarization(exp: Path) -> None:
    turns = {"ref": [(0, 4, "anna"), (3, 3, "boris"), (8, 1, "anna")], "hyp": [(0, 3.5, "s0"), (4, 3, "s1")]}
    for side, rows in turns.items():
        lines = [
            f"SPEAKER m{number} 1 {start} {length} <NA> <NA> {speaker} <NA> <NA>\n"
            for number in range(3)
            for start, length, speaker in rows[number > 1 :]
        ]
        _write(exp / f"diarization/{side}.rttm", "".join(lines))
    files = ["--ref", f"{exp}/diarization/ref.rttm", "--hyp", f"{exp}/diarization/hyp.rttm"]
    score.main(["der", *files, "--json", f"{exp}/diarization/der.json"])


def _alignment(exp: Path) -> None:
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    samples = 0.1 * np.sin(np.arange(16000) * 0.2) + 0.01 * np.random.default_rng(0).normal(size=16000)
    soundfile.write(exp / "data/u1.wav", samples, 16000)
    recording = Recording.from_file(exp / "data/u1.wav", recording_id="u1")
    spoken = SupervisionSegment("u1", "u1", 0.0, 1.0, text="one two <three>")
    CutSet.from_cuts([MonoCut("u1", 0.0, 1.0, 0, [spoken], recording=recording)]).to_file(
        exp / "data/cuts.jsonl.gz"
    )
    _write(exp / "asr/align.ctm", "u1 1 0.10 0.20 one\nu1 1 0.40 0.10 two\nu1 1 0.60 0.30 <three>\n")
    (exp / "asr/posteriors").mkdir()
    np.savez(exp / "asr/posteriors/u1.npz", posteriors=np.full((50, 4), 0.25, np.float32), frame_shift=0.02)
