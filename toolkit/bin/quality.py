"""Measures frame labels: usage by themselves; purity and PNMI against an alignment."""

import argparse
from typing import TYPE_CHECKING

from toolkit.bin import run
from toolkit.bin._arguments import command_parser

if TYPE_CHECKING:
    import numpy as np

    from toolkit.ssl.quality import QualityResult

EPILOG = """examples:
  how many clusters are in use, and how evenly:
    %(prog)s --labels exp/labels1/cuts.jsonl.gz
  against an alignment of phones or characters, one a line: utterance channel start duration token
    %(prog)s --labels exp/labels1/cuts.jsonl.gz --alignment exp/align/char.ctm --json quality.json

Purity: share of frames whose token is the most frequent one of their cluster. Cluster purity: the other way
round. PNMI: share of the token's uncertainty that the cluster takes away, the best guide to the quality of
targets (HuBERT, section IV-D). Utterances of the alignment bear the ids of the cuts; cuts without an
alignment are left out, and so are frames outside of any token, unless --silence names a token for them."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = command_parser("quality", __doc__, EPILOG)
    top.add_argument("--labels", required=True, metavar="FILE", help="cuts with labels, as label writes them")
    top.add_argument("--alignment", metavar="FILE", help="CTM of tokens, times from the start of the cut")
    top.add_argument("--silence", metavar="TOKEN", help="token of frames that the alignment leaves out")
    top.add_argument(
        "--clusters", type=int, metavar="K", help="size of the codebook (default: greatest label + 1)"
    )
    top.add_argument("--json", metavar="FILE", help="write the numbers to a file, too")
    return top


def main(argv: list[str] | None = None) -> None:
    """Reads labels and alignment, measures, prints, writes."""
    args = parser().parse_args(argv)
    from toolkit.files import write_json
    from toolkit.ssl.quality import frames_from_ctm, quality

    labels, frame_shift = read_labels(args.labels)
    if args.alignment is None:
        result = quality(list(labels.values()), num_clusters=args.clusters)
    else:
        lengths = {name: len(row) for name, row in labels.items()}
        references, _ = frames_from_ctm(args.alignment, lengths, frame_shift, args.silence)
        aligned = [labels[name] for name in references]
        result = quality(aligned, list(references.values()), args.clusters)
    print(table(result))
    if args.json:
        write_json(args.json, result.to_dict())


def read_labels(path: str) -> tuple[dict[str, "np.ndarray"], float]:
    """Labels of each cut by its id, and their frame shift."""
    from toolkit.data.manifests import open_cuts
    from toolkit.errors import UserError
    from toolkit.ssl.labels import load_labels

    labels, shifts = {}, set()
    for cut in open_cuts(path):
        array = (cut.custom or {}).get("labels")
        if array is None:
            raise UserError(f"{path}: cut {cut.id} has no labels, expected a manifest of toolkit.bin.label")
        shifts.add(array.frame_shift)
        labels[cut.id] = load_labels(cut)
    if len(shifts) != 1:
        raise UserError(f"{path}: found frame shifts {sorted(shifts)}, expected one")
    return labels, shifts.pop()


def table(result: "QualityResult") -> str:
    """A line a number."""
    found = {name.replace("_", " "): value for name, value in result.to_dict().items() if value is not None}
    forms = {int: "d", float: ".4f"}
    return "\n".join(f"{name:<18}{value:>12{forms[type(value)]}}" for name, value in found.items())


if __name__ == "__main__":
    run(main)
