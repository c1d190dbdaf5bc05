"""Recognition: features, encoder and each search, beside sherpa-onnx with the same weights where it is installed.

Dimensions: B utterances, S samples, T frames, D encoder width.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from toolkit import config
from toolkit.bench.measure import Stopwatch, current
from toolkit.decode.registry import SEARCHES
from toolkit.errors import UserError
from toolkit.models.asr import AsrModel, CtcConfig
from toolkit.models.attention_decoder import AttentionConfig
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.published import PUBLISHED
from toolkit.models.transducer import TransducerConfig
from toolkit.text.tokenizer import BLANK, UNKNOWN, CharTokenizer

NUM_SYMBOLS = 500
TOKENS_PER_SECOND = 3.4
"""Of English in 500 sentencepiece units."""
RATE = 16000
TOKENIZER = CharTokenizer([BLANK, UNKNOWN, *map(chr, range(0x4E00, 0x4E00 + NUM_SYMBOLS - 2))])


@dataclass
class Setting:
    """What all searches of a comparison have in common."""

    model: str
    """A model for recognition of those that `bench models` lists."""
    utterances: int
    """How many."""
    batch_seconds: float
    """Audio computed together, with padding."""
    device: str
    """cpu or cuda, perhaps with a number."""

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Noise of 2 to 20 s, (B, S) and lengths (B,); utterances of like length together, the longest first."""
        generator = torch.Generator().manual_seed(1)
        seconds = 2 + 18 * torch.rand(self.utterances, generator=generator)
        lengths = (RATE * seconds.sort(descending=True).values).long()
        batches, first = [], 0
        while first < len(lengths):
            count = max(1, int(self.batch_seconds * RATE / lengths[first]))
            own = lengths[first : first + count]
            noise = 0.1 * torch.randn(len(own), int(own[0]), generator=generator)
            batches.append((noise.to(self.device), own.to(self.device)))
            first += count
        return batches


def compare(
    setting: Setting, searches: list[str], rounds: int, threads: int, peer: bool
) -> list[dict[str, Any]]:
    """Times every search on the same frames, in turns; medians over rounds.

    Args:
        setting: model and audio.
        searches: names of `SEARCHES`.
        rounds: that are timed, after one that is not.
        threads: on a CPU.
        peer: whether sherpa-onnx runs, too, its greedy search on the same weights.

    Raises:
        UserError: no such model or search, or no sherpa-onnx.
    """
    torch.set_num_threads(threads)
    device = current(setting.device)
    model, batches = make_model(setting), setting.batches()
    found = {name: _search(name, model, device) for name in searches}
    audio = sum(int(lengths.sum()) for _, lengths in batches) / RATE
    times: dict[str, list[float]] = {name: [] for name in ("encoder", *searches, "peer")}
    other = sherpa(model, threads) if peer else None
    for _ in range(rounds + 1):
        for name, seconds in _round(model, batches, found, device).items():
            times[name].append(seconds)
        if other is not None:
            times["peer"].append(other(batches))
    encoder = median(times["encoder"][1:])
    rows = []
    for name in searches:
        spent = median(times[name][1:])
        rows.append(_row("toolkit", name, audio, encoder + spent, encoder, spent))
    if other is not None:
        rows.append(_row("sherpa-onnx", "greedy", audio, median(times["peer"][1:]), None, None))
    return rows


def make_model(setting: Setting) -> AsrModel:
    """Random weights that say as many tokens a second as a trained model does."""
    if not setting.model.startswith("zipformer-asr"):
        raise UserError(f"--model: found {setting.model!r}, expected zipformer-asr-small, -medium or -large")
    torch.manual_seed(0)
    speech = SpeechEncoder(config.build(SpeechConfig, PUBLISHED[setting.model], setting.model))
    model = AsrModel(speech, NUM_SYMBOLS, CtcConfig(), TransducerConfig(scale=1.0), AttentionConfig())
    model = model.to(setting.device).eval()
    # Weights of their initial size would say the same at every frame.
    nn.init.normal_(model.transducer.joiner.output.weight, std=1.0)
    _calibrate(model, *Setting(setting.model, 4, 40, setting.device).batches()[0])
    return model


@torch.inference_mode()
def _calibrate(model: AsrModel, waveforms: Tensor, lengths: Tensor) -> None:
    """Moves the bias of the joiner's blank until greedy search finds `TOKENS_PER_SECOND`, by bisection."""
    output = model.speech(waveforms, lengths)
    seconds, search = int(lengths.sum()) / RATE, _search("greedy", model, waveforms.device)
    bias = model.transducer.joiner.output.bias
    low, high = -64.0, 64.0
    for _ in range(12):
        bias[0] = (low + high) / 2
        found = sum(len(best.tokens) for best, *_ in search(output.frames, output.lengths)) / seconds
        low, high = (bias[0].item(), high) if found > TOKENS_PER_SECOND else (low, bias[0].item())
    bias[0] = high


def _search(name: str, model: AsrModel, device: torch.device) -> Callable:
    """A search by name; of transducers, with one symbol on a frame at most, as random weights would have many."""
    if name not in SEARCHES:
        raise UserError(f"--searches: found {name!r}, expected one of: {', '.join(SEARCHES)}")
    settings = SEARCHES[name].Config(**({"max_symbols": 1} if name == "greedy" else {}))
    return SEARCHES[name](settings, model, TOKENIZER, device)


def _row(
    system: str,
    search: str,
    audio: float,
    seconds: float,
    encoder: float | None,
    search_seconds: float | None,
) -> dict[str, Any]:
    """All times are seconds."""
    return {
        "system": system,
        "search": search,
        "encoder": encoder,
        "searching": search_seconds,
        "real_time_factor": seconds / audio,
        "audio_per_second": audio / seconds,
    }


@torch.inference_mode()
def _round(
    model: AsrModel, batches: list[tuple[Tensor, Tensor]], searches: dict[str, Callable], device: torch.device
) -> dict[str, float]:
    """Seconds of the encoder, with features, and of every search, over all batches."""
    total = dict.fromkeys(("encoder", *searches), 0.0)
    for waveforms, lengths in batches:
        watch = Stopwatch(device)
        output = model.speech(waveforms, lengths)
        watch.done("encoder")
        for name, search in searches.items():
            search(output.frames, output.lengths)
            watch.done(name)
        for name, seconds in watch.parts().items():
            total[name] += seconds
    return total


def sherpa(model: AsrModel, threads: int) -> Callable[[list[tuple[Tensor, Tensor]]], float]:
    """A function that has sherpa-onnx recognise the batches by greedy search, and gives the seconds it took.

    Raises:
        UserError: it is not installed.
    """
    try:
        import sherpa_onnx
    except ImportError:
        raise UserError('--peer: sherpa-onnx is not installed: pip install ".[export]"') from None
    from toolkit.export.sherpa import write_sherpa

    with tempfile.TemporaryDirectory() as folder:
        write_sherpa(Path(folder), model, TOKENIZER.tokens)
        parts = {
            name: str(Path(folder, f"{name}.onnx")) for name in ("encoder", "decoder", "joiner", "tokens")
        }
        parts["tokens"] = str(Path(folder, "tokens.txt"))
        recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(**parts, num_threads=threads)

    def run(batches: list[tuple[Tensor, Tensor]]) -> float:
        watch = Stopwatch(torch.device("cpu"))
        for waveforms, lengths in batches:
            streams = []
            for row, length in zip(waveforms.cpu().numpy(), lengths.tolist(), strict=True):
                stream = recognizer.create_stream()
                stream.accept_waveform(RATE, np.ascontiguousarray(row[:length]))
                streams.append(stream)
            recognizer.decode_streams(streams)
        watch.done("all")
        return watch.parts()["all"]

    return run
