"""Clusters frame features (MFCC, or a layer of a model) into a codebook."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.bin import run
from toolkit.bin._arguments import add_batch_seconds, add_cuts, add_device, command_parser, skipped_path

EPILOG = """examples:
  first iteration, 100 clusters of MFCC, a label every 40 ms:
    %(prog)s --cuts data/train.jsonl.gz --out exp/km1.safetensors \\
      --clusters 100 --frame-shift 0.04
  second iteration, 500 clusters of the sixth layer of a pretrained model, on a GPU:
    %(prog)s --cuts data/train.jsonl.gz --out exp/km2.safetensors \\
      --clusters 500 --model exp/pretrain/model --layer 6 --device cuda
  several codebooks of the same frames, for targets of several streams:
    %(prog)s --cuts data/train.jsonl.gz \\
      --out exp/km100.safetensors exp/km500.safetensors --clusters 100 500

A codebook is one safetensors file; its metadata says which features it is for, so that label needs no more.
Cuts that cannot be used are listed in OUT.skipped.jsonl (the first OUT, if there are several).

Layers: the output of a layer is taken after its last residual connection, as Hugging Face's hidden_states are.
fairseq takes it before that, so that codebooks made there do not fit. Of a Shar folder all audio is read, of a
manifest only the cuts that are drawn: for large corpora name the manifest that was packed.

Memory: the frames that are kept take 4 bytes a feature, so that a million frames of 768 features take 3.1 GB."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = command_parser("kmeans", __doc__, EPILOG)
    add_cuts(top, required=True)
    top.add_argument(
        "--out", required=True, nargs="+", metavar="FILE", help="codebooks to write, .safetensors"
    )
    top.add_argument(
        "--clusters", required=True, nargs="+", type=int, metavar="K", help="sizes of the codebooks"
    )
    top.add_argument("--model", metavar="DIR", help="model directory; without it MFCC are clustered")
    top.add_argument(
        "--layer",
        type=int,
        metavar="N",
        help="of the model; 0: the first layer's input, N: layer N's output, after the residual",
    )
    top.add_argument(
        "--frame-shift",
        type=float,
        metavar="S",
        help="seconds from label to label (default: the model's; 0.02 for MFCC)",
    )
    top.add_argument("--cmvn", action="store_true", help="MFCC: zero mean, unit variance over each utterance")
    top.add_argument(
        "--margin",
        type=int,
        default=0,
        metavar="N",
        help="MFCC: frames of 10 ms left out at both ends, so that labels stand where the frames of an encoder do: 1 "
        "for the waveform front end, 4 for Zipformer on filter banks (default: 0)",
    )
    top.add_argument(
        "--portion", type=float, default=1.0, metavar="P", help="share of the cuts to draw (default: all)"
    )
    top.add_argument(
        "--max-frames",
        type=int,
        default=1_000_000,
        metavar="N",
        help="frames to fit to (default: %(default)s)",
    )
    top.add_argument(
        "--method",
        choices=["sklearn", "minibatch", "lloyd"],
        help="mini-batches by scikit-learn (default on a CPU) or by PyTorch (default on a GPU), or PyTorch with all "
        "frames in every pass, which must fit on the device",
    )
    top.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of what is drawn and where to start (default: 0)"
    )
    add_batch_seconds(top, 60)
    add_device(top)
    return top


def main(argv: list[str] | None = None) -> None:
    """Draws cuts, computes their features, fits a codebook to them and writes it."""
    args = parser().parse_args(argv)
    import toolkit
    from toolkit.bin._output import counted
    from toolkit.errors import UserError
    from toolkit.files import write_jsonl
    from toolkit.ssl.extract import build
    from toolkit.ssl.kmeans import fit, reservoir
    from toolkit.tasks.apply import pick_device

    if len(args.out) != len(args.clusters):
        raise UserError(
            f"--out, --clusters: found {len(args.out)} files and {len(args.clusters)} sizes, expected as many"
        )

    if args.max_frames < 1:
        raise UserError(f"--max-frames: found {args.max_frames}, expected at least 1")
    if not 0 < args.portion <= 1:
        raise UserError(f"--portion: found {args.portion}, expected a share above 0 and at most 1")
    device = pick_device(args.device)
    recipe = read_recipe(args)
    skipped: list[dict[str, str]] = []
    frames = drawn_frames(args, build(recipe, toolkit.load, device), recipe["frame_shift"], skipped)
    method = args.method or ("sklearn" if device.type == "cpu" else "minibatch")
    listed = skipped_path(args.out[0])
    try:
        kept = reservoir(frames, args.max_frames, args.seed)
    finally:
        write_jsonl(listed, skipped)
    # Of two codebooks of one size, each begins elsewhere.
    for number, (path, num_clusters) in enumerate(zip(args.out, args.clusters, strict=True)):
        codebook = fit(kept, num_clusters, args.seed + number, method, device)
        codebook.meta |= {"features": recipe, "cuts": args.cuts}
        codebook.save(path)
        inertia = codebook.meta["inertia"]
        print(
            f"{path}: {counted(num_clusters, 'cluster')} of {len(kept)} frames, inertia {inertia:.4g} a frame"
        )
    print(f"{counted(len(skipped), 'cut')} skipped, listed in {listed}")


def read_recipe(args: argparse.Namespace) -> dict[str, Any]:
    """Which features are to be clustered."""
    import toolkit
    from toolkit.errors import UserError
    from toolkit.ssl.extract import mfcc_recipe, model_recipe

    if (args.model is None) != (args.layer is None):
        raise UserError("command line: found one of --model and --layer, expected both or none")
    for name in ("cmvn", "margin"):
        if args.model is not None and getattr(args, name):
            raise UserError(f"command line: found --{name} and --model, expected one; --{name} is for MFCC")
    if args.model is None:
        return mfcc_recipe(0.02 if args.frame_shift is None else args.frame_shift, args.cmvn, args.margin)
    own = toolkit.load(args.model).speech.frame_shift
    return model_recipe(args.model, args.layer, own if args.frame_shift is None else args.frame_shift)


def drawn_frames(
    args: argparse.Namespace, features: Any, frame_shift: float, skipped: list[dict[str, str]]
) -> Iterator[Any]:
    """Features (T, D) of the cuts that are drawn."""
    from toolkit.data.manifests import open_cuts
    from toolkit.data.shar import list_shard, shard_names
    from toolkit.progress import progress
    from toolkit.ssl.extract import draw

    cuts = open_cuts(args.cuts)
    listed = cuts
    if Path(args.cuts).is_dir():
        listed = (cut for name in shard_names(args.cuts) for cut in list_shard(args.cuts, name))
    count, seconds = 0, 0.0
    for cut in listed:
        count, seconds = count + 1, seconds + cut.duration
    # Twice the frames that are kept make a fair sample; the rest need not be read.
    portion = min(1.0, args.portion, 2 * args.max_frames * frame_shift / max(seconds, frame_shift))
    frames = draw(cuts, features, portion, args.seed, skipped, args.batch_seconds)
    return progress(frames, max(1, round(portion * count)), "features")


if __name__ == "__main__":
    run(main)
