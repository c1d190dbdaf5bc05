"""Recognisers as files that sherpa-onnx runs (https://k2-fsa.github.io/sherpa/onnx/).

sherpa-onnx computes log-mel features by itself; what is done to them here goes into the files. Its tensors bind by
position; their names are icefall's.

Dimensions: N utterances, S samples, T feature frames, T' output frames, K symbols of context, J joiner width, V
symbols.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from toolkit.errors import UserError
from toolkit.export.onnx import Port, compare, write_int8, write_onnx
from toolkit.export.sherpa_streaming import FEATURES, StreamingEncoder
from toolkit.files import atomic_write
from toolkit.models.asr import AsrModel
from toolkit.models.base import SpeechEncoder
from toolkit.models.predictors import StatelessPredictor
from toolkit.models.transducer import Transducer
from toolkit.models.waveform import least_samples
from toolkit.models.zipformer.streaming import ZipformerStream
from toolkit.nn.subsampling import LEAST_FRAMES
from toolkit.text.tokenizer import BLANK

SAMPLE_RATE = 16000
WEIGHTS, WITH_EMBEDDINGS = ("MatMul",), ("MatMul", "Gather")
"""What has weights of 8 bits."""
ABOUT = {"version": 1, "model_author": "toolkit", "comment": "speech recogniser"}


class File(NamedTuple):
    """One network, which becomes NAME.onnx and NAME.int8.onnx."""

    name: str
    module: nn.Module
    inputs: list[Port]
    outputs: list[Port]
    example: list[Tensor]
    """What it is traced with."""
    other: list[Tensor]
    """What it is tried with: more utterances, other lengths."""
    metadata: dict[str, str | int]
    kinds: tuple[str, ...] = WEIGHTS
    """Nodes whose weights get 8 bits."""
    counted: bool = False
    """Whether the second output counts the valid frames of the first."""


def write_sherpa(
    folder: Path,
    model: AsrModel,
    tokens: Sequence[str],
    chunk_size: int | None = None,
    left_context: int | None = None,
) -> None:
    """Writes a recogniser's networks, in float32 and with 8-bit weights, and tokens.txt.

    model.onnx is the CTC model; encoder.onnx, decoder.onnx and joiner.onnx are the transducer. Of a causal Zipformer
    they are those of a stream, unless its chunk is the whole utterance. Each float32 file is run and compared with the
    model.

    Args:
        folder: where to; made if need be.
        model: in evaluation, on the CPU.
        tokens: its symbols, by id.
        chunk_size: streaming: frames of the first stack in a chunk; the encoder's own if None.
        left_context: streaming: frames before its chunk that a frame sees; the encoder's own if None.

    Raises:
        UserError: what sherpa-onnx cannot run.
        RuntimeError: a file does something else than the model.
    """
    check(model, tokens, chunk_size, left_context)
    for file in networks(model, chunk_size, left_context):
        path = folder / f"{file.name}.onnx"
        write_onnx(path, file.module, file.example, file.inputs, file.outputs, {**file.metadata, **ABOUT})
        compare(path, file.module, file.other, file.counted)
        write_int8(path, path.with_suffix(".int8.onnx"), file.kinds)
    with atomic_write(folder / "tokens.txt") as listed:
        listed.writelines(f"{token} {index}\n" for index, token in enumerate(tokens))


def check(
    model: AsrModel, tokens: Sequence[str], chunk_size: int | None = None, left_context: int | None = None
) -> None:
    """Refuses what sherpa-onnx cannot run.

    Raises:
        UserError: with the key that stands in the way.
    """
    frontend, causal = model.speech.config.frontend, is_streamed(model.speech, chunk_size)
    expected: list[tuple[str, int | bool, str]] = [("sample_rate", SAMPLE_RATE, "")]
    if frontend.name == "waveform":
        expected.append(("normalize", True, ", which does so"))
    else:
        expected.append(("num_mel_bins", FEATURES, ""))
        if causal:
            expected.append(("normalize", False, ": there is no mean over a stream"))
    for key, wanted, why in expected:
        if (found := getattr(frontend, key)) != wanted:
            numbers = f"found {found}, expected {wanted}".lower()
            raise UserError(f"speech.frontend.{key}: {numbers} for sherpa-onnx{why}")
    if causal and (frontend.name != "fbank" or model.speech.config.encoder.embed not in ("conv2d", "stack")):
        raise UserError(
            f"speech: found a causal Zipformer behind the front end {frontend.name!r}, expected 'fbank' and "
            "encoder.embed 'conv2d' or 'stack' for sherpa-onnx"
        )
    if not causal and (chunk_size, left_context) != (None, None):
        raise UserError(
            "speech.encoder: found one that is not causal, or whose chunk is the whole utterance, expected no chunk "
            "size or left context"
        )
    if model.ctc is None and (reason := no_transducer(model)):
        raise UserError(f"{reason}; nor is there a CTC head, which it can run")
    if tokens[0] != BLANK:
        raise UserError(f"tokens.txt: found {tokens[0]!r} with the id 0, expected {BLANK}")


def no_transducer(model: AsrModel) -> str | None:
    """Why there are no files of the transducer, or None."""
    if model.transducer is None:
        return "the model has no transducer"
    if not isinstance(model.transducer.predictor, StatelessPredictor):
        return "transducer.predictor: sherpa-onnx runs 'stateless' only"
    if model.speech.config.frontend.name != "fbank":
        return "speech.frontend: sherpa-onnx runs a transducer on 'fbank' only"
    return None


def is_streamed(speech: SpeechEncoder, chunk_size: int | None = None) -> bool:
    """Whether the encoder is fed chunk by chunk: it is causal, and its chunk is not the whole utterance.

    Args:
        speech: front end and encoder.
        chunk_size: frames of a chunk; the encoder's own if None.
    """
    config = speech.config.encoder
    if not getattr(config, "causal", False):
        return False
    return (config.chunk_size if chunk_size is None else chunk_size) > 0


def networks(
    model: AsrModel, chunk_size: int | None = None, left_context: int | None = None
) -> Iterator[File]:
    """All networks of a model that `check` lets through."""
    chunks = chunk_size, left_context
    if model.ctc is not None:
        if model.speech.config.frontend.name == "fbank":
            head = nn.Sequential(model.ctc, nn.LogSoftmax(-1))
            yield _encoder("model", "log_probs", model.speech, head, *chunks)
        else:
            yield _waveform(model)
    if no_transducer(model) is None:
        assert model.transducer is not None
        yield _encoder("encoder", "encoder_out", model.speech, model.transducer.joiner.encoder_proj, *chunks)
        yield _decoder(model.transducer, model.num_symbols)
        yield _joiner(model.transducer)


class OfflineEncoder(nn.Module):
    """Whole utterances: features to what a head makes of the encoder's frames.

    Args:
        speech: encoder whose front end computes filter banks.
        head: what is put on top of its frames.
    """

    def __init__(self, speech: SpeechEncoder, head: nn.Module) -> None:
        super().__init__()
        self.frontend, self.encoder, self.head = speech.frontend, speech.encoder, head

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, 80) log-mel features and (N,) int64 valid frames to (N, T', ...) and valid frames."""
        if self.frontend.normalize:
            x = self.frontend.normalized(x, x_lens)
        output = self.encoder.encode(*self.encoder.embed(at_least(x, LEAST_FRAMES), x_lens))
        return self.head(output.frames), output.lengths


class WaveformCtc(nn.Module):
    """Samples of whole utterances to CTC logits; all are as long as the batch."""

    def __init__(self, speech: SpeechEncoder, head: nn.Module) -> None:
        super().__init__()
        self.speech, self.head = speech, head
        config = speech.config.frontend
        self.least = least_samples(config.kernels, config.strides)

    def forward(self, x: Tensor) -> Tensor:
        """(N, S) samples to (N, T', V)."""
        lengths = torch.full_like(x[:, 0], 1, dtype=torch.int64) * x.shape[1]
        return self.head(self.speech(at_least(x, self.least), lengths).frames)


class Decoder(nn.Module):
    """The predictor and its projection for the joiner."""

    def __init__(self, transducer: Transducer) -> None:
        super().__init__()
        self.predictor, self.project = transducer.predictor, transducer.joiner.predictor_proj

    def forward(self, y: Tensor) -> Tensor:
        """(N, K) int64 symbols, -1 for none, to (N, J)."""
        return self.project(self.predictor.of_context(y)[:, 0])


def at_least(x: Tensor, size: int) -> Tensor:
    """(N, T, ...) filled up with zeros to T = `size`; longer ones stay, also in what was traced with a longer one."""
    padded = nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (0, size))
    return padded[:, : torch.as_tensor(x.shape[1]).clamp(min=size)]


def _encoder(
    name: str,
    output: str,
    speech: SpeechEncoder,
    head: nn.Module,
    chunk_size: int | None,
    left_context: int | None,
) -> File:
    if is_streamed(speech, chunk_size):
        streaming = StreamingEncoder(ZipformerStream(speech.encoder, chunk_size, left_context), head)
        metadata = {"model_type": "zipformer2", **streaming.metadata()}
        return File(
            name, streaming, *streaming.ports(output), streaming.example(2), streaming.example(3), metadata
        )
    return File(
        name,
        OfflineEncoder(speech, head),
        [Port("x", {0: "N", 1: "T"}), Port("x_lens", {0: "N"})],
        [
            Port(output, {0: "N", 1: "T_out"}),
            Port("log_probs_len" if output == "log_probs" else f"{output}_lens", {0: "N"}),
        ],
        _features(150, 97),
        _features(83, 201, 9),
        {"model_type": "zipformer2_ctc" if output == "log_probs" else "zipformer2"},
        counted=True,
    )


def _waveform(model: AsrModel) -> File:
    # sherpa-onnx takes the greatest number of a frame, which logits are good enough for.
    axes = {0: "N", 1: "T"}
    samples = torch.randn(2, SAMPLE_RATE), torch.randn(1, SAMPLE_RATE // 2 + 17)
    module = WaveformCtc(model.speech, model.ctc)
    return File(
        "model",
        module,
        [Port("x", axes)],
        [Port("logits", axes)],
        [samples[0]],
        [samples[1]],
        {"model_type": "omnilingual"},
    )


def _decoder(transducer: Transducer, num_symbols: int) -> File:
    context = transducer.predictor.context
    first = torch.tensor([-1] * (context - 1) + [0])
    return File(
        "decoder",
        Decoder(transducer),
        [Port("y", {0: "N"})],
        [Port("decoder_out", {0: "N"})],
        [torch.stack([first, torch.ones_like(first)])],
        [torch.stack([torch.zeros_like(first), first, torch.ones_like(first)])],
        {"vocab_size": num_symbols, "context_size": context},
        WITH_EMBEDDINGS,
    )


def _joiner(transducer: Transducer) -> File:
    width = transducer.joiner.output.in_features
    return File(
        "joiner",
        transducer.joiner,
        [Port("encoder_out", {0: "N"}), Port("decoder_out", {0: "N"})],
        [Port("logit", {0: "N"})],
        list(torch.randn(2, 2, width)),
        list(torch.randn(2, 5, width)),
        {"joiner_dim": width},
    )


def _features(*lengths: int) -> list[Tensor]:
    """Noise that is like log-mel features, and its lengths."""
    return [torch.randn(len(lengths), max(lengths), FEATURES) * 4 - 8, torch.tensor(lengths)]
