"""Labels the frames of cuts with the nearest cluster of a codebook."""

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.bin import run
from toolkit.bin._arguments import add_batch_seconds, add_cuts, add_device, command_parser

if TYPE_CHECKING:
    from toolkit.ssl.labels import Labeller

EPILOG = """examples:
  label a training set with the codebook that kmeans made, on both cores of a small machine:
    %(prog)s --cuts data/train.jsonl.gz --kmeans exp/km1.safetensors \\
      --out exp/labels1/train --jobs 2
  a Shar folder, whose audio stays where it is, with two codebooks, for targets of two streams:
    %(prog)s --cuts data/train_shar \\
      --kmeans exp/km1.safetensors exp/km2.safetensors --out exp/labels/train
  the validation set likewise, and then pretrain on both:
    python -m toolkit.bin.train --config egs/mini/conf/pretrain.yaml --exp exp/pretrain \\
      --data.train=exp/labels1/train/cuts.jsonl.gz --data.valid=exp/labels1/valid/cuts.jsonl.gz

The folder gets cuts.jsonl.gz (the cuts, each with `labels`: a Lhotse TemporalArray, int16, T labels of one
codebook or T x C of C), recipe.json (what made them), skipped.jsonl (cuts that cannot be used, and why) and
shards/ (the labels, HDF5). Of a Shar folder it gets shar/ in place of cuts.jsonl.gz and shards/: a Shar folder
with the labels and links to the audio. The same command, given again after any interruption, goes on with the
next shard."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = command_parser("label", __doc__, EPILOG)
    add_cuts(top, required=True)
    top.add_argument(
        "--kmeans",
        required=True,
        nargs="+",
        metavar="FILE",
        help="codebooks, each a stream of labels; they say which features they are for",
    )
    top.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the labels; a new one, or one to go on with"
    )
    top.add_argument("--model", metavar="DIR", help="where the codebooks' model is now, if it has moved")
    top.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    top.add_argument(
        "--shard-size", type=int, default=500, metavar="N", help="cuts in a file (default: %(default)s)"
    )
    add_batch_seconds(top, 60)
    add_device(top, "auto or cuda (all GPUs in turn), cpu, cuda:1, ...")
    return top


def main(argv: list[str] | None = None) -> None:
    """Reads the codebooks, labels what is not labelled yet, and sums up."""
    args = parser().parse_args(argv)
    from toolkit.bin._output import check_new, counted
    from toolkit.data.manifests import open_cuts
    from toolkit.progress import progress
    from toolkit.ssl.labels import label_cuts, read_summary
    from toolkit.ssl.shar_labels import label_shar
    from toolkit.train.distributed import sole_owner

    cuts = open_cuts(args.cuts)
    make = functools.partial(build_labeller, args.kmeans, args.model, args.device, args.batch_seconds)
    recipe = read_recipe(args)
    if not (Path(args.out) / "recipe.json").exists():  # It comes before all else that labelling writes.
        check_new(Path(args.out))
    if Path(args.cuts).is_dir():
        output = f"{args.out}/shar"
        shards = label_shar(args.cuts, args.out, recipe, make, args.jobs)
    else:
        output = f"{args.out}/cuts.jsonl.gz"
        shards = label_cuts(cuts, args.out, recipe, make, args.jobs, args.shard_size)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    with sole_owner(Path(args.out)):
        for _ in progress((cut for size in shards for cut in range(size)), len(cuts), "label"):
            continue
    found = read_summary(args.out)
    print(
        f"{output}: {counted(found.num_cuts, 'cut')} with {found.num_frames} labels"
        f"{f' in each of {len(args.kmeans)} streams' if len(args.kmeans) > 1 else ''}, "
        f"{found.audio_seconds / 3600:.2f} h; {found.num_skipped} skipped, listed in {args.out}/skipped.jsonl"
    )


def read_recipe(args: argparse.Namespace) -> dict[str, Any]:
    """What the labels are made of; goes into recipe.json."""
    from toolkit.ssl.extract import check_recipe, digest
    from toolkit.ssl.kmeans import KMeans
    from toolkit.ssl.labels import common_frame_shift

    metas = [KMeans.load(path).meta for path in args.kmeans]
    for path, meta in zip(args.kmeans, metas, strict=True):
        check_recipe(meta.get("features"), path)
    lists = sorted(Path(args.cuts).glob("cuts.*.jsonl*")) if Path(args.cuts).is_dir() else [args.cuts]
    return {
        "cuts": {"path": args.cuts, "sha256": digest(*lists)},
        "kmeans": [
            {"path": path, "sha256": digest(path), **meta}
            for path, meta in zip(args.kmeans, metas, strict=True)
        ],
        "frame_shift": common_frame_shift(metas),
    }


def build_labeller(
    kmeans: list[str], model: str | None, device: str, batch_seconds: float, number: int
) -> "Labeller":
    """The labeller of process `number`; codebooks for the same features share what computes them."""
    import torch

    import toolkit
    from toolkit.ssl.extract import build
    from toolkit.ssl.kmeans import KMeans
    from toolkit.ssl.labels import Labeller
    from toolkit.tasks.apply import pick_device

    chosen = pick_device(device)
    if chosen.type == "cuda" and device in ("auto", "cuda"):
        chosen = torch.device("cuda", number % torch.cuda.device_count())
    streams = []
    computed: dict[str, Any] = {}
    for path in kmeans:
        codebook = KMeans.load(path)
        recipe = codebook.meta["features"]
        if model is not None and recipe["kind"] == "model":
            recipe = {**recipe, "model": model}
        if str(recipe) not in computed:
            computed[str(recipe)] = build(recipe, toolkit.load, chosen)
        codebook.centroids = codebook.centroids.to(chosen)
        streams.append((computed[str(recipe)], codebook))
    return Labeller(streams, batch_seconds)


if __name__ == "__main__":
    run(main, goes_on=True)
