"""Recognises cuts with a model and, in sherpa-onnx, with the files exported from it, and compares what is found.

For each head of the model: how many cuts get the same tokens, and the word error rates of the model, of the exported
files, and of those with 8-bit weights. All search greedily; streams get silence to the end of a chunk.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from toolkit.bin import run
from toolkit.data.manifests import open_cuts
from toolkit.data.recordings import named_recordings
from toolkit.data.text import transcript
from toolkit.decode.ctc import CtcGreedy
from toolkit.decode.endpoint import EndpointConfig
from toolkit.decode.greedy import Greedy, GreedyConfig
from toolkit.decode.hypothesis import Hypothesis
from toolkit.decode.streaming import StreamingConfig, StreamingRecognizer
from toolkit.errors import UserError
from toolkit.export.sherpa import SAMPLE_RATE
from toolkit.export.sherpa_run import SherpaRecognizer
from toolkit.files import write_json
from toolkit.models.asr import AsrModel
from toolkit.progress import progress
from toolkit.score import wer
from toolkit.tasks.load import load_task_and_model
from toolkit.text.tokenizer import SPACE, UNKNOWN, Tokenizer

Recognize = Callable[[np.ndarray], list[str]]
"""(S,) samples at 16 kHz to the symbols of tokens."""
FILES = {"ctc": "model.onnx", "transducer": "encoder.onnx"}


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--model", required=True, help="model directory of the recogniser")
    result.add_argument(
        "--sherpa", type=Path, required=True, help="what toolkit.bin.export --to sherpa made of it"
    )
    result.add_argument("--cuts", required=True, help="cuts with transcripts")
    for option in ("chunk-size", "left-context"):
        result.add_argument(f"--{option}", type=int, metavar="N", help="of a stream, as given to the export")
    result.add_argument("--json", type=Path, help="file for the figures")
    return result


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    task, model = load_task_and_model(args.model)
    heads = [head for head, name in FILES.items() if (args.sherpa / name).is_file()]
    if not isinstance(model, AsrModel) or not heads:
        raise UserError(
            f"{args.sherpa}: found no {' or '.join(FILES.values())}, expected an exported recogniser"
        )
    texts = {cut.id: task.tokenizer.normalize(transcript(cut)) for cut in open_cuts(args.cuts)}
    recordings = {
        recording.id: np.concatenate(list(recording.blocks()))
        for recording in named_recordings(args.cuts, [], SAMPLE_RATE)
    }
    figures = {}
    for head in heads:
        whole, small = (SherpaRecognizer(args.sherpa, head, int8) for int8 in (False, True))
        settings = StreamingConfig(args.chunk_size, args.left_context) if whole.streaming else None
        ours = recognizer(model, task.tokenizer, head, settings)
        systems: dict[str, Recognize] = {
            "toolkit": lambda samples, ours=ours, sherpa=whole: ours(sherpa.with_silence(samples)),
            "float32": whole,
            "int8": small,
        }
        figures[head] = compare(systems, recordings, texts)
        print(f"{head}{', streaming' if whole.streaming else ''}: {describe(figures[head])}")
    if args.json:
        write_json(args.json, figures)


def recognizer(
    model: AsrModel, tokenizer: Tokenizer, head: str, settings: StreamingConfig | None
) -> Recognize:
    """The toolkit's greedy search, with one symbol a frame at most as sherpa-onnx has it; in a stream with settings."""
    search = (
        CtcGreedy(CtcGreedy.Config(), model, tokenizer, "cpu")
        if head == "ctc"
        else Greedy(GreedyConfig(max_symbols=1), model, tokenizer, "cpu")
    )
    if settings is not None:
        config = replace(settings, endpoint=EndpointConfig(enabled=False))
        streaming = StreamingRecognizer(model, search, config)

        def find(samples: np.ndarray) -> list[Hypothesis]:
            stream = streaming.start()
            stream.accept(torch.from_numpy(samples))
            streaming.decode([stream])
            return stream.partial().hypotheses
    else:

        def find(samples: np.ndarray) -> list[Hypothesis]:
            output = model.speech(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
            return search(output.frames, output.lengths)[0]

    def recognize(samples: np.ndarray) -> list[str]:
        with torch.no_grad():
            return [tokenizer.tokens[token.id] for token in find(samples)[0].tokens]

    return recognize


def compare(
    systems: dict[str, Recognize], recordings: dict[str, np.ndarray], texts: dict[str, str]
) -> dict[str, float]:
    """Number of recordings, how many of them get the same tokens ("same"), and word error rates of the systems."""
    found = {
        name: {
            key: shown(recognize(samples))
            for key, samples in progress(recordings.items(), len(recordings), name)
        }
        for name, recognize in systems.items()
    }
    same = sum(found["float32"][key] == tokens for key, tokens in found["toolkit"].items())
    rates = {
        name: wer.score(
            texts, {key: "".join(tokens) for key, tokens in tokens_of.items()}, replications=0
        ).wer
        for name, tokens_of in found.items()
    }
    return {"recordings": len(recordings), "same": same, **rates}


def shown(tokens: list[str]) -> list[str]:
    """As sherpa-onnx shows them, which takes <unk> of a transducer for a blank."""
    return [token.replace(SPACE, " ") for token in tokens if token != UNKNOWN]


def describe(figures: dict[str, float]) -> str:
    rates = (f"{100 * figures[name]:.2f} % ({name})" for name in ("toolkit", "float32", "int8"))
    return (
        f"the same tokens in {figures['same']} of {figures['recordings']} recordings; WER {', '.join(rates)}"
    )


if __name__ == "__main__":
    run(main)
