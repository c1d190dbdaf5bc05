"""What the tests of the recipes for recognition share: tiny models, and what must be there in the end."""

import json
from pathlib import Path

from tests.recipes.test_librispeech_ssl import TINY_FRONTEND, TINY_TRAINING, TINY_TRANSFORMER, TINY_ZIPFORMER
from toolkit.bin import train

TINY_TRANSDUCER = ["--transducer.joiner_dim=32", "--transducer.predictor.dim=32"]
TINY_LM = [
    "--network.dim=32",
    "--network.num_layers=1",
    "--data.sampler.num_workers=0",
    "--train.precision=fp32",
    "--train.valid_every=0",
    "--train.log_every=1",
    "--train.checkpoint_every=2",
]
ENCODERS = {
    "librispeech/ssl/conf/zipformer_base": [*TINY_FRONTEND, *TINY_ZIPFORMER],
    "librispeech/ssl/conf/hubert_base": [*TINY_FRONTEND, *TINY_TRANSFORMER],
    "librilight/ssl/conf/hubert_large": [*TINY_FRONTEND, *TINY_TRANSFORMER],
}
"""Configurations of pretraining, and what makes them small."""
STAGES = ["download", "prepare", "train", "average", "decode", "ngram", "lm", "fusion", "results", "export"]
WITHOUT_LM = {"transducer": {"greedy", "beam"}, "ctc": {"greedy", "beam"}}
WITH_LM = {
    "transducer": {"beam_ngram", "beam_lm", "beam_lodr", "rescored"},
    "ctc": {"beam_words", "beam_lm", "graph"},
}


def tiny(*settings: str) -> dict[str, str]:
    """What makes a recipe small."""
    return {
        "overrides": " ".join([*settings, *TINY_TRAINING]),
        "lm_overrides": " ".join(TINY_LM),
        **{"batches": "2", "num_gpus": "1", "updates": "4", "lm_updates": "4", "average": "2"},
    }


def pretrained(root: Path, folder: Path, encoder: str) -> Path:
    """Makes a model directory as pretraining leaves it, by two updates on tones."""
    settings = [*ENCODERS[encoder], *TINY_TRAINING, "--objective={name: best_rq}", "--train.max_updates=2"]
    data = ["--data.train=synthetic:8", "--data.valid=synthetic:2", "--data.sampler.min_seconds=1"]
    exp = folder / "pretraining"
    train.main(["--config", str(root / f"egs/{encoder}.yaml"), "--exp", str(exp), *data, *settings])
    return exp / "model"


def check_recogniser(
    exp: Path, head: str, sets: list[str], streaming: set[str] = frozenset(), exports: bool = True
) -> None:
    """What every search found, and what is there beside it."""
    rows = [json.loads(line) for line in (exp / "train/metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["split"] == "train"]
    assert len(losses) == 4 and all(0 < loss < 200 for loss in losses)
    assert not (exp / "train/skipped.jsonl").read_text()
    kinds = {"decode": WITHOUT_LM[head], "fusion": WITH_LM[head], "stream": set(streaming)}
    table = (exp / "RESULTS.md").read_text()
    for kind, searches in kinds.items():
        for name in sets if searches else []:
            folder = exp / kind / name
            assert {path.name for path in folder.iterdir() if path.is_dir()} == searches
            assert not (folder / "skipped.jsonl").read_text()
            for search in searches:
                assert len((folder / search / "text").read_text().splitlines()) == 4
                assert json.loads((folder / search / "wer.json").read_text())["utterances"] == 4
                assert f"| {search}" in table
    assert f"| search | {' | '.join(sets)} |" in table
    assert head == "transducer" or (exp / "graph/HLG.fst").stat().st_size > 1000
    if exports:
        names = {path.name for path in (exp / "sherpa").iterdir()}
        assert "tokens.txt" in names and any(name.endswith(".int8.onnx") for name in names)
