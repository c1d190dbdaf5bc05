"""Good cuts, trained models and experiments of every task, to be spoilt by the tests."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.faults.harness import Desk, put
from toolkit.bin import embed, kmeans, label, train
from toolkit.data.synthetic import synthetic_cuts

COMMON = """
data: {train: cuts.jsonl.gz, sampler: {max_duration: 8, num_buckets: 1}}
speech:
  encoder: {dim: 16, num_layers: 1, num_heads: 2, feed_forward_dim: 16, kernel_size: 3, subsampling: 2}
train: {max_updates: 2, checkpoint_every: 1, log_every: 1, threads: 1}
"""
CONFIGS = {
    "asr.yaml": f"task: asr{COMMON}",
    "ssl.yaml": f"task: ssl{COMMON}objective: {{num_classes: 14}}\n",
    "speaker.yaml": f"task: speaker{COMMON}head: {{hidden_dim: 8, attention_dim: 4, embedding_dim: 8}}\n",
    "diarization.yaml": f"task: diarization{COMMON}chunk_seconds: 1\n"
    "head: {hidden_dim: 16, num_layers: 1, num_heads: 2, feed_forward_dim: 16, kernel_size: 3}\n",
}
SCORING = {
    "ref": "a the cat sat\nb hello\n",
    "hyp": "a the bat sat\nb hello\n",
    "trials": "1 synthetic-0-0000 synthetic-0-0004\n0 synthetic-0-0000 synthetic-0-0001\n",
    "scores": "synthetic-0-0000 synthetic-0-0004 1.5\nsynthetic-0-0000 synthetic-0-0001 -1\n",
    "ref.rttm": "SPEAKER m 1 0 5 <NA> <NA> x <NA> <NA>\n",
    "hyp.rttm": "SPEAKER m 1 0 4 <NA> <NA> y <NA> <NA>\n",
}


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the real commands filled.

    cuts.jsonl.gz and audio/ (synthetic speech), <task>.yaml, exp/<task> (experiments), codebook (of MFCC),
    layer_codebook (of a layer of exp/ssl), frame_labels/, embeddings, and small files to score.
    """
    folder = tmp_path_factory.mktemp("stock")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        synthetic_cuts(6, folder=folder)
        for name, text in {**CONFIGS, **SCORING}.items():
            put(folder / name, text)
        for name in CONFIGS:
            train.main(["--config", name, "--exp", f"exp/{Path(name).stem}"])
        cuts = ["--cuts", "cuts.jsonl.gz"]
        layer = ["--model", "exp/ssl/model", "--layer", "1"]
        kmeans.main([*cuts, "--out", "codebook", "--clusters", "4"])
        kmeans.main([*cuts, "--out", "layer_codebook", "--clusters", "4", *layer])
        label.main([*cuts, "--kmeans", "codebook", "--out", "frame_labels", "--shard-size", "2"])
        embed.main([*cuts, "--model", "exp/speaker/model", "--output", "embeddings"])
    return folder


@pytest.fixture
def desk(stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Desk:
    """The current folder, with links to all that is in stock; model directories are asr, ssl, ..."""
    for path in stock.iterdir():
        (tmp_path / path.name).symlink_to(path)
    for path in (stock / "exp").iterdir():
        (tmp_path / path.name).symlink_to(path / "model")
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path, monkeypatch, capsys)


@pytest.fixture(autouse=True, scope="session")
def leave_no_trace() -> Iterator[None]:
    """Training in this process changes settings of the process."""
    handler, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    signal.signal(signal.SIGTERM, handler)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
