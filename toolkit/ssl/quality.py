"""How good frame labels are: against a reference alignment, and by themselves.

With z a cluster, y a reference token and p their shares of frames (Hsu et al., HuBERT, section IV-D):

    purity          sum_z max_y p(y, z)      how well a cluster tells the token
    cluster purity  sum_y max_z p(y, z)      how well a token tells the cluster; falls as clusters are added
    PNMI            I(y; z) / H(y)           share of the token's uncertainty that the cluster takes away
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from toolkit.errors import UserError
from toolkit.files import read_text

NO_TOKEN = -1
"""Reference of frames that no token covers; they do not count."""

MAX_DIFFERENCE = 2
"""Frames by which an utterance's labels and reference may differ in number."""


@dataclass
class QualityResult:
    """Numbers for one set of labels; those that need a reference are None without one."""

    num_frames: int
    """Labelled frames."""
    num_clusters: int
    """Clusters there are."""
    used_clusters: int
    """Clusters that occur."""
    unused_clusters: int
    """Clusters that do not: capacity that is lost."""
    usage_entropy: float
    """Entropy of the clusters' shares of frames, as a share of its greatest value: 1 is even use."""
    perplexity: float
    """Clusters that would be in use if all those were used evenly: exp of the entropy."""
    mean_run: float
    """Mean number of frames until the label changes."""
    reference_frames: int | None = None
    """Frames with a reference token; the numbers below are over them."""
    num_tokens: int | None = None
    """Reference tokens that occur."""
    purity: float | None = None
    """Share of frames whose token is the most frequent one of their cluster."""
    cluster_purity: float | None = None
    """Share of frames whose cluster is the most frequent one of their token."""
    pnmi: float | None = None
    """Mutual information of token and cluster over the token's entropy."""

    def to_dict(self) -> dict[str, int | float | None]:
        """All numbers by name."""
        return asdict(self)


def quality(
    labels: Sequence[np.ndarray],
    references: Sequence[np.ndarray] | None = None,
    num_clusters: int | None = None,
) -> QualityResult:
    """Measures label sequences.

    Args:
        labels: an array (T,) of cluster numbers for each utterance, -1 where there is none.
        references: an array (T',) of token numbers for each utterance, NO_TOKEN where there is none; T and T'
            may differ by MAX_DIFFERENCE, and the longer one is cut. None measures the labels by themselves.
        num_clusters: clusters there are; None takes the greatest label.

    Raises:
        UserError: no frames, labels beyond `num_clusters`, or an utterance whose labels and reference differ by more.
    """
    everything = np.concatenate([np.zeros(0, np.int64), *labels]).astype(np.int64)
    everything = everything[everything >= 0]
    if len(everything) == 0:
        raise UserError("labels: found no frames, expected at least one")
    if num_clusters is not None and everything.max() >= num_clusters:
        raise UserError(
            f"clusters: found {num_clusters}, expected more than the greatest label, {everything.max()}"
        )
    counts = np.bincount(everything, minlength=num_clusters or 0)
    entropy = _entropy(counts)
    result = QualityResult(
        num_frames=len(everything),
        num_clusters=len(counts),
        used_clusters=int((counts > 0).sum()),
        unused_clusters=int((counts == 0).sum()),
        usage_entropy=entropy / math.log(len(counts)) if len(counts) > 1 else 1.0,
        perplexity=math.exp(entropy),
        mean_run=len(everything) / sum(_num_runs(row[row >= 0]) for row in labels),
    )
    if references is not None:
        _compare(result, labels, references)
    return result


def _num_runs(row: np.ndarray) -> int:
    """Stretches of equal labels."""
    return 1 + int((row[1:] != row[:-1]).sum()) if len(row) else 0


def _compare(result: QualityResult, labels: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> None:
    """Fills in what needs a reference."""
    joint = joint_counts(labels, references)
    total = int(joint.sum())
    if total == 0:
        raise UserError("alignment: found no frame with a token, expected at least one")
    tokens, clusters = joint.sum(1), joint.sum(0)
    token_entropy = _entropy(tokens)
    shared = token_entropy + _entropy(clusters) - _entropy(joint.ravel())
    result.reference_frames = total
    result.num_tokens = int((tokens > 0).sum())
    result.purity = float(joint.max(0).sum() / total)
    result.cluster_purity = float(joint.max(1).sum() / total)
    # With one token only there is no uncertainty to take away.
    result.pnmi = max(0.0, shared / token_entropy) if token_entropy > 0 else 0.0


def joint_counts(labels: Iterable[np.ndarray], references: Iterable[np.ndarray]) -> np.ndarray:
    """Frames (tokens, clusters) of each pair of token and cluster, for arrays as `quality` takes them."""
    pairs = []
    for number, (label, reference) in enumerate(zip(labels, references, strict=True)):
        if abs(len(label) - len(reference)) > MAX_DIFFERENCE:
            raise UserError(
                f"utterance {number}: found {len(label)} labels for {len(reference)} reference frames, "
                f"expected a difference of at most {MAX_DIFFERENCE}"
            )
        size = min(len(label), len(reference))
        pair = np.stack([reference[:size], label[:size]]).astype(np.int64)
        pairs.append(pair[:, (pair[0] != NO_TOKEN) & (pair[1] >= 0)])
    tokens, clusters = np.concatenate([np.zeros((2, 0), np.int64), *pairs], axis=1)
    if len(tokens) == 0:
        return np.zeros((1, 1), np.int64)
    shape = (tokens.max() + 1, clusters.max() + 1)
    return np.bincount(tokens * shape[1] + clusters, minlength=shape[0] * shape[1]).reshape(shape)


def _entropy(counts: np.ndarray) -> float:
    """Entropy, in nats, of shares given as counts."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


Segment = tuple[float, float, str]
"""Start and end in seconds, token."""


def read_ctm(path: str | Path) -> dict[str, list[Segment]]:
    """Reads an alignment: lines of `utterance channel start duration token [confidence]`.

    Returns:
        The segments of each utterance, in the file's order.

    Raises:
        UserError: missing, or a line of another form.
    """
    segments: dict[str, list[Segment]] = {}
    for number, line in enumerate(read_text(path, "an alignment as CTM").split("\n"), 1):
        fields = line.split()
        if not fields or line.startswith(";;"):
            continue
        try:
            name, _, start, duration, token = fields[:5]
            begin, end = float(start), float(start) + float(duration)
        except ValueError:
            raise UserError(
                f"{path}:{number}: found {line.strip()!r}, expected: utterance channel start duration token"
            ) from None
        if not 0 <= begin <= end < math.inf:
            raise UserError(f"{path}:{number}: found times {start} {duration}, expected numbers from 0")
        segments.setdefault(name, []).append((begin, end, token))
    return segments


def frames_from_ctm(
    path: str | Path, lengths: dict[str, int], frame_shift: float, silence: str | None = None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Turns an alignment into one token a frame.

    Frame i stands for the time i * frame_shift + 5 ms, the centre of the 10 ms frame that it is centred on.

    Args:
        path: a CTM file.
        lengths: frames of each utterance that is wanted; those that the alignment lacks are left out.
        frame_shift: seconds.
        silence: a token for frames that no segment covers; None leaves them NO_TOKEN.

    Returns:
        Token numbers (T,) of each utterance that the alignment has, and the tokens by number.

    Raises:
        UserError: a CTM that is missing or not valid, or has none of the utterances.
    """
    alignment = read_ctm(path)
    numbers: dict[str, int] = {} if silence is None else {silence: 0}
    frames = {}
    for name in lengths:
        if name not in alignment:
            continue
        row = np.full(lengths[name], NO_TOKEN if silence is None else 0, np.int64)
        for begin, end, token in alignment[name]:
            first, last = (max(0, math.ceil((time - 0.005) / frame_shift - 1e-6)) for time in (begin, end))
            row[first:last] = numbers.setdefault(token, len(numbers))
        frames[name] = row
    if not frames:
        example = next(iter(lengths), "nothing")
        raise UserError(f"{path}: found none of the {len(lengths)} utterances, such as {example}")
    return frames, list(numbers)
