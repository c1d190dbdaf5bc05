"""Measures what frozen frame features tell of phones or characters, by a linear classifier."""

import argparse
from typing import TYPE_CHECKING, Any

from toolkit.bin import run
from toolkit.bin._arguments import add_batch_seconds, add_device, command_parser

if TYPE_CHECKING:
    import torch
    from lhotse.cut import Cut

    from toolkit.ssl.extract import FrameFeatures
    from toolkit.ssl.probe import Accuracy

EPILOG = """examples:
  every layer of a pretrained model; the best one by validation cuts is the one to report:
    %(prog)s --model exp/pretrain/model --train-cuts data/train.jsonl.gz \\
      --valid-cuts data/valid.jsonl.gz --test-cuts data/test.jsonl.gz --alignment data/phones.ctm \\
      --json probe.json
  the same encoder with random weights, and MFCC, for comparison:
    %(prog)s --model exp/pretrain/model --random-init 1 --layer 4 \\
      --train-cuts data/train.jsonl.gz --test-cuts data/test.jsonl.gz --alignment data/phones.ctm
    %(prog)s --mfcc --frame-shift 0.04 \\
      --train-cuts data/train.jsonl.gz --test-cuts data/test.jsonl.gz --alignment data/phones.ctm

The classifier is multinomial logistic regression on standardised features. Utterances of the alignment (lines
of: utterance channel start duration token) bear the ids of the cuts; cuts without an alignment are left out,
and so are frames outside of any token, unless --silence names a token for them. The interval is a bootstrap
over utterances. "majority" is the accuracy of the most frequent token of the training cuts."""

BOOTSTRAP = 10_000
"""Draws of the test utterances."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = command_parser("probe", __doc__, EPILOG)
    source = top.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="DIR", help="model directory")
    source.add_argument("--mfcc", action="store_true", help="MFCC with deltas instead of a model")
    top.add_argument(
        "--layer",
        default="all",
        metavar="N",
        help="0: the first layer's input, N: layer N's output, or all (default: %(default)s)",
    )
    top.add_argument(
        "--random-init", type=int, metavar="SEED", help="replace the model's weights by random ones"
    )
    top.add_argument("--train-cuts", required=True, metavar="FILE", help="to learn from")
    top.add_argument("--valid-cuts", metavar="FILE", help="to choose the layer by, needed for all layers")
    top.add_argument("--test-cuts", required=True, metavar="FILE", help="to measure on")
    top.add_argument(
        "--alignment", required=True, metavar="FILE", help="CTM of tokens, times from the start of the cut"
    )
    top.add_argument("--silence", metavar="TOKEN", help="token of frames that the alignment leaves out")
    top.add_argument(
        "--frame-shift",
        type=float,
        metavar="S",
        help="seconds from frame to frame (default: the model's; 0.02 for MFCC)",
    )
    top.add_argument(
        "--max-frames",
        type=int,
        default=200_000,
        metavar="N",
        help="frames to learn from (default: %(default)s)",
    )
    top.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: 0)")
    top.add_argument("--json", metavar="FILE", help="write the numbers to a file, too")
    add_batch_seconds(top, 60)
    add_device(top)
    return top


def main(argv: list[str] | None = None) -> None:
    """Probes one layer after the other, prints a line for each, and sums up."""
    args = parser().parse_args(argv)
    from toolkit.errors import UserError
    from toolkit.files import write_json
    from toolkit.ssl.quality import read_ctm

    if args.max_frames < 1:
        raise UserError(f"--max-frames: found {args.max_frames}, expected at least 1")
    sources = feature_sources(args)
    if len(sources) > 1 and args.valid_cuts is None:
        raise UserError("--valid-cuts: found none, expected cuts to choose the layer by; or name a --layer")
    aligned = read_ctm(args.alignment)
    files = {"train": args.train_cuts, "valid": args.valid_cuts, "test": args.test_cuts}
    cuts = {part: read_cuts(path, aligned.keys(), args.alignment) for part, path in files.items() if path}
    rows = []
    for name, (features, frame_shift) in sources.items():
        rows.append({"layer": name, **probe_layer(args, cuts, features, frame_shift)})
        print(line(rows[-1]), flush=True)
    best = max(rows, key=lambda row: row.get("valid_accuracy", 0.0))
    if len(rows) > 1:
        print(f"best by the validation cuts: {line(best)}")
    if args.json:
        source = {"mfcc": True} if args.mfcc else {"model": args.model, "random_init": args.random_init}
        write_json(args.json, {"metric": "probe", **source, **best, "layers": rows})


def feature_sources(args: argparse.Namespace) -> "dict[int | None, tuple[FrameFeatures, float]]":
    """Features and frame shift of each layer that is to be probed; of layer None for MFCC."""
    from toolkit.errors import UserError
    from toolkit.ssl.extract import MfccFrames, ModelFrames
    from toolkit.tasks.apply import pick_device

    device = pick_device(args.device)
    if args.mfcc:
        if args.layer != "all" or args.random_init is not None:
            raise UserError(
                "command line: found --layer or --random-init and --mfcc, expected --model for them"
            )
        shift = 0.02 if args.frame_shift is None else args.frame_shift
        return {None: (MfccFrames(shift, device=device), shift)}
    model = read_model(args.model, args.random_init, device)
    if args.layer != "all" and not args.layer.isdecimal():
        raise UserError(f"--layer: found {args.layer!r}, expected a number or all")
    layers = range(model.speech.num_layers + 1) if args.layer == "all" else [int(args.layer)]
    shift = model.speech.frame_shift if args.frame_shift is None else args.frame_shift
    return {layer: (ModelFrames(model, layer, shift), shift) for layer in layers}


def read_model(folder: str, random_init: int | None, device: "torch.device") -> Any:
    """The model of a model directory, or one like it that has learned nothing."""
    import torch

    import toolkit
    from toolkit.tasks.load import load_task

    if random_init is None:
        return toolkit.load(folder, device)
    torch.manual_seed(random_init)
    return load_task(folder).build_model().to(device).eval()


def read_cuts(path: str, aligned: Any, alignment: str) -> "list[Cut]":
    """The cuts that have an alignment."""
    from toolkit.data.manifests import open_cuts
    from toolkit.errors import UserError

    cuts = [cut for cut in open_cuts(path) if cut.id in aligned]
    if not cuts:
        raise UserError(f"{path}: found no cut that {alignment} has, expected at least one")
    return cuts


def probe_layer(
    args: argparse.Namespace, cuts: "dict[str, list[Cut]]", source: "FrameFeatures", frame_shift: float
) -> dict[str, Any]:
    """Learns from the training cuts, and measures on the others."""
    from toolkit.ssl.probe import fit, majority, measure, read_features
    from toolkit.ssl.quality import frames_from_ctm

    skipped: list[dict[str, str]] = []
    features = {part: read_features(rows, source, skipped, args.batch_seconds) for part, rows in cuts.items()}
    # All at once, so that a token has one number everywhere.
    lengths = {name: len(rows) for part in features.values() for name, rows in part.items()}
    references, tokens = frames_from_ctm(args.alignment, lengths, frame_shift, args.silence)
    probe = fit(features["train"], references, len(tokens), args.max_frames, args.seed)
    found: dict[str, Any] = {}
    if "valid" in features:
        found["valid_accuracy"] = measure(probe, features["valid"], references).mean
    test = measure(probe, features["test"], references)
    known = {part: {name: references[name] for name in features[part]} for part in ("train", "test")}
    token, guess = majority(known["train"], known["test"], len(tokens))
    return {
        **found,
        **with_interval(test),
        "majority": guess.mean,
        "majority_token": tokens[token],
        "num_tokens": len(tokens),
        "train_frames": sum(int((row >= 0).sum()) for row in known["train"].values()),
        "test_frames": int(test.frames.sum()),
        "test_utterances": len(test.frames),
        "skipped": len(skipped),
    }


def with_interval(found: "Accuracy") -> dict[str, float]:
    """Accuracy and its 95 % interval."""
    from toolkit.score.bootstrap import ratio_interval

    low, high = ratio_interval(found.right, found.frames, BOOTSTRAP, seed=0)
    return {"accuracy": found.mean, "accuracy_low": low, "accuracy_high": high}


def line(row: dict[str, Any]) -> str:
    """A layer's result for people."""
    from toolkit.bin._output import counted

    name = "MFCC" if row["layer"] is None else f"layer {row['layer']}"
    valid = f", validation {row['valid_accuracy']:.2%}" if "valid_accuracy" in row else ""
    return (
        f"{name}: {row['accuracy']:.2%} of {row['test_frames']} frames right "
        f"({row['accuracy_low']:.2%} to {row['accuracy_high']:.2%}){valid}; majority {row['majority']:.2%}, "
        f"{counted(row['num_tokens'], 'token')}"
    )


if __name__ == "__main__":
    run(main)
