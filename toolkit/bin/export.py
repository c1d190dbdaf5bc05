"""Write the model of a model directory for other programs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.bin import run
from toolkit.bin._arguments import command_parser
from toolkit.errors import UserError

if TYPE_CHECKING:
    from toolkit.models.base import SpeechModel
    from toolkit.tasks.base import Task

EPILOG = """
examples:
  a pretrained transformer on waveforms, for Hugging Face's transformers:
    python -m toolkit.bin.export --to hf --model exp/pretrain/model exp/pretrain/hf
  from fairseq's checkpoint to a folder of Hugging Face's:
    python -m toolkit.bin.convert --from fairseq hubert_base_ls960.pt exp/hubert-base
    python -m toolkit.bin.export --to hf --model exp/hubert-base exp/hubert-base-hf
  a recogniser, for sherpa-onnx:
    python -m toolkit.bin.export --to sherpa --model exp/asr/model exp/asr/sherpa

The folder for hf holds config.json, model.safetensors and preprocessor_config.json; transformers reads it with
AutoModel.from_pretrained(OUT). It knows the encoders `transformer` with the front end `waveform`: HuBERT,
wav2vec 2.0, WavLM, data2vec audio. For s3prl nothing needs to be exported: docs/pretrained.md.

The folder for sherpa holds tokens.txt and, each in float32 (NAME.onnx) and with 8-bit weights (NAME.int8.onnx),
model.onnx of a CTC head, and encoder.onnx, decoder.onnx and joiner.onnx of a transducer. Those of a causal Zipformer
are streaming models. docs/export.md says what sherpa-onnx does with them.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = command_parser("export", __doc__, EPILOG)
    top.add_argument(
        "--to",
        required=True,
        choices=("hf", "sherpa"),
        help="hf: the encoder as a folder of Hugging Face's; sherpa: a recogniser as ONNX files for sherpa-onnx",
    )
    top.add_argument("--model", required=True, metavar="DIR", help="model directory; for hf of any task")
    top.add_argument("output", metavar="OUT", help="folder to write; a new one")
    sherpa = top.add_argument_group("streaming models for sherpa-onnx, in frames of the first stack")
    sherpa.add_argument(
        "--chunk-size", type=int, metavar="N", help="frames of a chunk (default: as in evaluation)"
    )
    sherpa.add_argument(
        "--left-context",
        type=int,
        metavar="N",
        help="frames before its chunk that a frame sees, a multiple of the chunk (default: as in evaluation)",
    )
    return top


def main(argv: list[str] | None = None) -> None:
    """Loads the model and writes it."""
    args = parser().parse_args(argv)
    from toolkit.bin._output import check_new
    from toolkit.models.adaptation import merge
    from toolkit.tasks.load import load_task_and_model

    output = Path(args.output)
    check_new(output)
    task, model = load_task_and_model(args.model)
    merge(model)
    write = {"hf": _write_hf, "sherpa": _write_sherpa}[args.to]
    write(output, task, model, args)
    print(f"{args.output}: {', '.join(sorted(path.name for path in output.iterdir()))}")


def _write_hf(output: Path, task: "Task", model: "SpeechModel", args: argparse.Namespace) -> None:
    from toolkit.export.hf import write_hf

    for option in ("chunk_size", "left_context"):
        if getattr(args, option) is not None:
            raise UserError(f"--{option.replace('_', '-')}: found with --to hf, expected --to sherpa")
    write_hf(output, model.config.speech, model.speech.state_dict())


def _write_sherpa(output: Path, task: "Task", model: "SpeechModel", args: argparse.Namespace) -> None:
    from toolkit.export.sherpa import no_transducer, write_sherpa
    from toolkit.models.asr import AsrModel

    if not isinstance(model, AsrModel):
        raise UserError(f"{args.model}: found task {task.config.task}, expected asr for sherpa-onnx")
    write_sherpa(output, model, task.tokenizer.tokens, args.chunk_size, args.left_context)
    if model.transducer is not None and (reason := no_transducer(model)):
        print(f"Left out: {reason}.")
    if model.attention is not None:
        print("Left out: the attention decoder, which sherpa-onnx cannot run.")


if __name__ == "__main__":
    run(main)
