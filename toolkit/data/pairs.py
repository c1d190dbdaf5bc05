"""Recordings with their supervisions, from the two manifests that `lhotse prepare` writes, in little memory."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import UserError

if TYPE_CHECKING:
    from lhotse import Recording, SupervisionSegment


def recordings_with_supervisions(
    folder: str | Path, prefix: str, part: str
) -> Iterator[tuple["Recording", list["SupervisionSegment"]]]:
    """Reads the two manifests side by side.

    Args:
        folder: where they are.
        prefix: the corpus, as in the files' names.
        part: the part of the corpus, likewise.

    Yields:
        A recording and its supervisions.

    Raises:
        UserError: a manifest is missing, or its supervisions do not come in the order of the recordings.
    """
    from lhotse import RecordingSet, SupervisionSet

    folder = Path(folder)
    paths = [folder / f"{prefix}_{kind}_{part}.jsonl.gz" for kind in ("recordings", "supervisions")]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file, expected what `lhotse prepare {prefix}` writes")
    recordings = RecordingSet.from_jsonl_lazy(paths[0])
    segments = SupervisionSet.from_jsonl_lazy(paths[1])
    groups = itertools.groupby(segments, key=lambda segment: segment.recording_id)
    name, group = next(groups, (None, iter(())))
    for recording in recordings:
        if recording.id == name:
            yield recording, list(group)
            name, group = next(groups, (None, iter(())))
        else:
            yield recording, []
    if name is not None:
        raise UserError(f"{paths[1]}: found {name} out of turn, expected the order of {paths[0].name}")
