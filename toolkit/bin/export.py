"""Write the encoder of a model directory for other programs."""

import argparse
from pathlib import Path

from toolkit.bin import run
from toolkit.bin._arguments import command_parser

EPILOG = """
examples:
  a pretrained transformer on waveforms, for Hugging Face's transformers:
    python -m toolkit.bin.export --to hf --model exp/pretrain/model exp/pretrain/hf
  from fairseq's checkpoint to a folder of Hugging Face's:
    python -m toolkit.bin.convert --from fairseq hubert_base_ls960.pt exp/hubert-base
    python -m toolkit.bin.export --to hf --model exp/hubert-base exp/hubert-base-hf

The folder for hf holds config.json, model.safetensors and preprocessor_config.json; transformers reads it with
AutoModel.from_pretrained(OUT). It knows the encoders `transformer` with the front end `waveform`: HuBERT,
wav2vec 2.0, WavLM, data2vec audio. For s3prl nothing needs to be exported: docs/pretrained.md.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = command_parser("export", __doc__, EPILOG)
    top.add_argument("--to", required=True, choices=("hf",), help="hf: a folder of Hugging Face's")
    top.add_argument("--model", required=True, metavar="DIR", help="model directory of any task")
    top.add_argument("output", metavar="OUT", help="folder to write; a new one")
    return top


def main(argv: list[str] | None = None) -> None:
    """Loads the model and writes its encoder."""
    args = parser().parse_args(argv)
    import toolkit
    from toolkit.bin._output import check_new
    from toolkit.export.hf import write_hf
    from toolkit.models.adaptation import merge

    check_new(Path(args.output))
    model = toolkit.load(args.model)
    merge(model)
    write_hf(args.output, model.config.speech, model.speech.state_dict())
    print(f"{args.output}: {', '.join(sorted(path.name for path in Path(args.output).iterdir()))}")


if __name__ == "__main__":
    run(main)
