"""Turn pretrained encoders of other programs into model directories."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.bin import run
from toolkit.bin._arguments import command_parser

if TYPE_CHECKING:
    from toolkit.convert import Converted

EPILOG = """
examples:
  HuBERT, wav2vec 2.0, WavLM or data2vec audio from a folder of Hugging Face's (config.json, model.safetensors):
    python -m toolkit.bin.convert --from hf hubert-base-ls960/ exp/hubert-base
  the same models as fairseq (or, for WavLM, UniLM) saved them, pretrained or fine-tuned:
    python -m toolkit.bin.convert --from fairseq hubert_base_ls960.pt exp/hubert-base
  a Zipformer of icefall; where its file does not hold the options of its training, those that shapes do not show:
    python -m toolkit.bin.convert --from icefall epoch-30.pt exp/zipformer
    python -m toolkit.bin.convert --from icefall pretrained.pt exp/zipformer \\
      --set num_heads=4,4,4,8,4,4 --set encoder_unmasked_dim=192,192,256,256,256,192

OUT becomes a model directory: toolkit.load(OUT) in Python, --init.model=OUT for train, --model OUT for kmeans, label
and export. Heads, decoders and quantisers are left out. Checkpoints are read without running any code in them.
"""
HEADS = (
    # icefall
    r"(decoder|joiner|ctc_output|simple_am_proj|simple_lm_proj|attention_decoder)\b.*",
    # In every layer of its Zipformer, and never used; and the one weight of a downsampling by one.
    r"(.*\.)?encoders\.\d+\.(encoder\.)?layers\.\d+\.bypass_scale",
    r"(.*\.)?downsample_output\.bias",
    # fairseq, and what icefall takes over from it
    r"(encoder\.)?(final_proj|label_embs_concat|quantizer|input_quantizer|target_glu)\b.*",
    r"(encoder\.)?(project_q|project_inp|_ema)\b.*",
    r"(w2v_encoder\.)?(proj|decoder)\b.*",
    # Hugging Face
    r"(lm_head|project_hid|classifier|projector|layer_weights|tdnn|objective)\b.*",
)
"""What is known to stand beside an encoder: it is left out without asking."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = command_parser("convert", __doc__, EPILOG)
    top.add_argument(
        "--from", dest="source", required=True, choices=("hf", "fairseq", "icefall"), help="what wrote IN"
    )
    top.add_argument("input", metavar="IN", help="checkpoint (.pt, .safetensors), or folder for hf")
    top.add_argument("output", metavar="OUT", help="model directory to write; a new one")
    top.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="icefall, fairseq: an option of the model's training, in the words of its program; overrides the "
        "checkpoint's own; may be given several times",
    )
    top.add_argument("--average", action="store_true", help="icefall: take the averaged weights, model_avg")
    top.add_argument("--allow-missing", action="store_true", help="weights that IN lacks keep random values")
    top.add_argument(
        "--allow-extra",
        action="store_true",
        help="leave out whatever IN holds that has no place in the model",
    )
    return top


def main(argv: list[str] | None = None) -> None:
    """Reads, compares with the model that the settings describe, and writes."""
    args = parser().parse_args(argv)
    import torch

    from toolkit.bin._output import check_new, counted
    from toolkit.config import build
    from toolkit.errors import UserError
    from toolkit.tasks.encoder import EncoderConfig, EncoderTask
    from toolkit.tasks.load import save_model

    check_new(Path(args.output))
    converted = read(args)
    settings = build(EncoderConfig, {"task": "encoder", "speech": converted.speech}, args.input)
    torch.manual_seed(settings.seed)
    try:
        model = EncoderTask(settings, Path(args.output), settings.seed).build_model()
    except ValueError as error:
        raise UserError(f"{args.input}: {error}") from None
    heads, extra = sort_out(converted.left_out)
    fill(model, converted, extra, args)
    save_model(args.output, model, settings)
    speech = model.speech
    count = sum(parameter.numel() for parameter in speech.parameters())
    print(
        f"{args.output}: {settings.speech.encoder.name}, {counted(speech.num_layers, 'layer')} of {speech.dim}, "
        f"{count / 1e6:.2f} M parameters, a frame every {1000 * speech.frame_shift:g} ms"
    )
    if heads:
        print(f"left out: {summary(heads)}")


def read(args: argparse.Namespace) -> "Converted":
    """What IN holds, in the toolkit's terms.

    Raises:
        UserError: IN is damaged, or of another program or architecture.
    """
    from toolkit.convert.safe import read_checkpoint, state_dict
    from toolkit.errors import UserError

    options = dict(option(text) for text in args.set)
    if args.source == "hf":
        from toolkit.convert.hf import read_hf

        if options or args.average:
            found = "--set" if options else "--average"
            raise UserError(f"{found}: found with --from hf, whose config.json and weights hold all there is")
        return read_hf(args.input)
    content = read_checkpoint(args.input)
    if args.average and "model_avg" not in content:
        raise UserError(
            f"{args.input}: found no model_avg, expected a checkpoint of a training with averaging"
        )
    keys = ["model_avg"] if args.average else ["model", "state_dict"]
    state, left_out = state_dict(content, args.input, keys)
    try:
        if args.source == "fairseq":
            from toolkit.convert.fairseq import OPTIONS, fairseq_options, read_fairseq

            check_known(options, OPTIONS)
            converted = read_fairseq(state, {**fairseq_options(content), **options})
        else:
            from toolkit.convert.icefall import OPTIONS, read_icefall

            check_known(options, OPTIONS)
            converted = read_icefall(state, {**settings_of(content), **options})
    except UserError as error:
        raise UserError(f"{args.input}: {error}") from None
    return converted._replace(left_out=converted.left_out + left_out)


def settings_of(content: dict[str, Any]) -> dict[str, Any]:
    """The plain values at the top of a checkpoint, where icefall keeps the options of a training."""
    return {name: value for name, value in content.items() if isinstance(value, str | int | float | list)}


def option(text: str) -> tuple[str, Any]:
    """ "a=1,2" to ("a", [1, 2]); values are read as YAML.

    Raises:
        UserError: no option.
    """
    import yaml

    from toolkit.errors import UserError

    key, equals, value = text.partition("=")
    try:
        parts = [yaml.safe_load(part) for part in value.split(",")]
    except yaml.YAMLError:
        parts = [value]
    if not key or not equals or not value:
        raise UserError(f"--set: found {text!r}, expected KEY=VALUE")
    return key, parts[0] if len(parts) == 1 else parts


def check_known(options: dict[str, Any], known: tuple[str, ...]) -> None:
    """Sees to it that no option is given in vain.

    Raises:
        UserError: one would be.
    """
    from toolkit.errors import UserError

    for key in options:
        if key not in known:
            raise UserError(f"--set: found {key!r}, expected one of: {', '.join(sorted(known))}")


def sort_out(left_out: list[str]) -> tuple[list[str], list[str]]:
    """Names that are known to stand beside an encoder, and all others."""
    import re

    known = re.compile("|".join(HEADS))
    heads = [name for name in left_out if known.fullmatch(name)]
    return heads, [name for name in left_out if not known.fullmatch(name)]


def fill(model: Any, converted: "Converted", extra: list[str], args: argparse.Namespace) -> None:
    """Copies the weights into the model, and lists on standard error what is missing or has no place there.

    Raises:
        UserError: some are missing, of another shape, or have no place there, and that is not allowed.
    """
    from toolkit import checkpoint
    from toolkit.errors import UserError

    own = model.state_dict()
    weights = {
        f"speech.{name}": tensor.to(own[f"speech.{name}"].dtype)
        for name, tensor in converted.weights.items()
        if f"speech.{name}" in own
    }
    missing = [name for name in own if name not in weights]
    placeless = [f"speech.{name}" for name in converted.weights if f"speech.{name}" not in own]
    for kind, whose, names in (
        ("missing", "the toolkit", missing),
        ("extra", args.input, extra),
        ("extra", "the toolkit", placeless),
    ):
        if names:
            print(f"{kind}, by the names of {whose}:", *names, sep="\n  ", file=sys.stderr)
    problems = [
        f"{len(names)} {kind} ({summary(names)}), --allow-{kind} takes it nevertheless"
        for kind, names, allowed in (
            ("missing", missing, args.allow_missing),
            ("extra", extra + placeless, args.allow_extra),
        )
        if names and not allowed
    ]
    if problems:
        raise UserError(
            f"{args.input}: weights of another model: {'; '.join(problems)}; all are listed above"
        )
    checkpoint.load_weights(model, {**own, **weights}, args.input)


def summary(names: list[str]) -> str:
    """The first of them, and how many they are."""
    more = f", ... ({len(names)} in all)" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


if __name__ == "__main__":
    run(main)
