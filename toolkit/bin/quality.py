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
    %(prog)s --labels exp/labels1/cuts.jsonl.gz --alignment exp/align/char.ctm \\
      --json quality.json

Purity: share of frames whose token is the most frequent one of their cluster. Cluster purity: the other way
round. PNMI: share of the token's uncertainty that the cluster takes away, the best guide to the quality of
targets (HuBERT, section IV-D). Labels of several streams get a column each, and --json a list "streams".

Utterances of the alignment bear the ids of the cuts; cuts without an alignment are left out, and so are frames
outside of any token, unless --silence names a token for them."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = command_parser("quality", __doc__, EPILOG)
    top.add_argument(
        "--labels",
        required=True,
        metavar="FILE",
        help="cuts with labels, as label writes them, or a Shar folder",
    )
    top.add_argument("--alignment", metavar="FILE", help="CTM of tokens, times from the start of the cut")
    top.add_argument("--silence", metavar="TOKEN", help="token of frames that the alignment leaves out")
    top.add_argument(
        "--clusters",
        type=int,
        metavar="K",
        help="size of the codebook (default: as in the recipe.json of the labels)",
    )
    top.add_argument("--json", metavar="FILE", help="write the numbers to a file, too")
    return top


def main(argv: list[str] | None = None) -> None:
    """Reads labels and alignment, measures, prints, writes."""
    args = parser().parse_args(argv)
    from toolkit.files import write_json
    from toolkit.ssl.quality import frames_from_ctm, quality

    labels, frame_shift = read_labels(args.labels)
    references = None
    if args.alignment is not None:
        lengths = {name: len(row) for name, row in labels.items()}
        references, _ = frames_from_ctm(args.alignment, lengths, frame_shift, args.silence)
        labels = {name: labels[name] for name in references}
    streams = []
    for stream, num_clusters in enumerate(codebook_sizes(args, next(iter(labels.values())).shape[1])):
        column = [row[:, stream] for row in labels.values()]
        against = None if references is None else list(references.values())
        streams.append(quality(column, against, num_clusters))
    print(table(streams))
    if args.json:
        rows = [result.to_dict() for result in streams]
        write_json(args.json, rows[0] if len(rows) == 1 else {"streams": rows})


def codebook_sizes(args: argparse.Namespace, num_streams: int) -> list[int | None]:
    """Clusters of each stream; None where nobody knows."""
    from pathlib import Path

    from toolkit.files import read_json

    if args.clusters is not None:
        return [args.clusters] * num_streams
    recipe = Path(args.labels).parent / "recipe.json"
    codebooks = read_json(recipe).get("kmeans", []) if recipe.exists() else []
    return [codebook["num_clusters"] for codebook in codebooks] or [None] * num_streams


def read_labels(path: str) -> tuple[dict[str, "np.ndarray"], float]:
    """Labels (T, C) of each cut by its id, and their frame shift."""
    from toolkit.data.manifests import open_cuts
    from toolkit.errors import UserError
    from toolkit.ssl.labels import load_labels

    labels, shifts = {}, set()
    for cut in open_cuts(path):
        array = (cut.custom or {}).get("labels")
        if array is None:
            raise UserError(f"{path}: cut {cut.id} has no labels, expected a manifest of toolkit.bin.label")
        shifts.add(array.frame_shift)
        row = load_labels(cut)
        labels[cut.id] = row.reshape(len(row), -1)
    if len(shifts) != 1:
        raise UserError(f"{path}: found frame shifts {sorted(shifts)}, expected one")
    return labels, shifts.pop()


def table(streams: "list[QualityResult]") -> str:
    """A line a number, a column a stream."""
    forms = {int: "d", float: ".4f"}
    lines = []
    for name, value in streams[0].to_dict().items():
        if value is not None:
            values = "".join(f"{getattr(stream, name):>12{forms[type(value)]}}" for stream in streams)
            lines.append(f"{name.replace('_', ' '):<18}{values}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
