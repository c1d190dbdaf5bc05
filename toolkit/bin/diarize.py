"""Find out who spoke when."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from toolkit.bin import run
from toolkit.bin._arguments import add_device, add_recordings, add_skipped, command_parser, skipped_path

if TYPE_CHECKING:
    from toolkit.decode.diarize import Diarizer
    from toolkit.decode.stitching import Turn
    from toolkit.tasks.apply import Diarized, Skipped

EPILOG = """
examples:
  every meeting of a manifest, to one RTTM file:
    python -m toolkit.bin.diarize --model exp/diarization/model --speaker-model exp/speaker/model \\
      --cuts cuts_meetings_test.jsonl.gz --output exp/diarization/test.rttm
  one file, to look at; exactly two people talk in it:
    python -m toolkit.bin.diarize --model exp/diarization/model --speaker-model exp/speaker/model \\
      --num-speakers 2 talk.wav

The segmentation model finds the speakers within a sliding window, the speaker model tells which of them are
the same from window to window. Too many speakers? Raise --threshold. Too few? Lower it, or say how many there
are. Recordings of any length fit into memory. Those that cannot be read are left out, counted, and listed
with the reason in OUTPUT.skipped.jsonl.
"""

OPTIONS = {
    "window": (float, "SECONDS", "audio looked at together (default: as in training)"),
    "step": (float, "SECONDS", "from one window to the next (default: a quarter of the window)"),
    "batch-size": (int, "N", "windows computed together (default: 8)"),
    "min-trusted": (float, "SECONDS", "clean speech that may found a speaker (default: 2)"),
    "median": (int, "FRAMES", "median filter over the decisions, odd (default: 11)"),
    "min-duration-on": (float, "SECONDS", "drop shorter turns (default: 0.1)"),
    "min-duration-off": (float, "SECONDS", "fill shorter pauses within a turn (default: 0.2)"),
}
CLUSTERING = {
    "threshold": (
        float,
        "DISTANCE",
        "cosine distance up to which voices are one speaker (default: 0.5)",
    ),
    "min-speakers": (int, "N", "at least so many speakers in a recording (default: 1)"),
    "max-speakers": (int, "N", "at most so many speakers in a recording (default: 20)"),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = command_parser("diarize", __doc__, EPILOG)
    add_recordings(result)
    result.add_argument("--model", required=True, metavar="DIR", help="directory of a segmentation model")
    result.add_argument("--speaker-model", required=True, metavar="DIR", help="directory of a speaker model")
    result.add_argument("--output", metavar="FILE", help="RTTM to write; may be left out for audio files")
    add_skipped(result)
    add_device(result)
    speakers = result.add_argument_group("speakers")
    speakers.add_argument("--num-speakers", type=int, metavar="N", help="exactly so many speakers")
    speakers.add_argument("--cohort", metavar="FILE", help="embeddings whose mean is subtracted from voices")
    windows = result.add_argument_group("windows and turns")
    for group, options in ((speakers, CLUSTERING), (windows, OPTIONS)):
        for name, (kind, metavar, text) in options.items():
            group.add_argument(f"--{name}", type=kind, metavar=metavar, help=text)
    return result


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    from toolkit.data.recordings import named_recordings
    from toolkit.errors import UserError
    from toolkit.progress import progress
    from toolkit.tasks.apply import check_some, diarize_recordings

    if args.cuts and not args.output:
        raise UserError("command line: found --cuts without --output, expected an RTTM file to write")
    diarizer = build_diarizer(args)
    recordings = named_recordings(args.cuts, args.files, diarizer.sampling_rate, by_recording=True)
    shown = progress(recordings, len(args.files) or None, "diarize")
    results, skipped = diarize_recordings(shown, diarizer)
    if args.output:
        write(results, skipped, args.output, args.skipped or skipped_path(args.output))
    check_some(len(results), skipped)
    if args.files:
        show(results, skipped)


def build_diarizer(args: argparse.Namespace) -> "Diarizer":
    """Both models, and the settings that the command line changes."""
    from toolkit.decode.clustering import ClusteringConfig
    from toolkit.decode.diarize import DiarizeConfig, Diarizer
    from toolkit.errors import UserError
    from toolkit.tasks.apply import Segmenter, SpeakerEmbedder

    segmenter = Segmenter(args.model, args.device)
    embedder = SpeakerEmbedder(args.speaker_model, args.device, args.cohort)
    if segmenter.sampling_rate != embedder.sampling_rate:
        raise UserError(
            f"{args.speaker_model}: found a model for {embedder.sampling_rate} Hz, expected "
            f"{segmenter.sampling_rate} Hz as {args.model}"
        )
    clustering = given(args, CLUSTERING)
    if args.num_speakers is not None:
        if {"min_speakers", "max_speakers"} & set(clustering):
            raise UserError("command line: found --num-speakers beside --min- or --max-speakers")
        clustering |= {"min_speakers": args.num_speakers, "max_speakers": args.num_speakers}
    options = {"window": segmenter.chunk_seconds} | given(args, OPTIONS)
    options = {"step": options["window"] / 4} | options
    config = DiarizeConfig(**options, clustering=ClusteringConfig(**clustering))
    return Diarizer(segmenter, embedder, segmenter.frame_shift, segmenter.sampling_rate, config)


def write(results: "Diarized", skipped: "Skipped", output: str, listed: str) -> None:
    """Writes the turns as RTTM, unless there is no recording, and the list of those left out."""
    from toolkit.decode.stitching import rttm
    from toolkit.files import atomic_write, write_jsonl

    write_jsonl(listed, skipped)
    if results:
        with atomic_write(output) as file:
            file.writelines(f"{line}\n" for name, turns in results for line in rttm(name, turns))
        print(f"{len(results)} recordings in {output}; {len(skipped)} skipped, listed in {listed}")


def show(results: "Diarized", skipped: "Skipped") -> None:
    """Prints the timeline of each recording, and why others were left out."""
    for name, turns in results:
        print(f"\n{name}\n" + "\n".join(timeline(turns)))
    for row in skipped:
        print(f"skipped {row['path']}: {row['reason']}", file=sys.stderr)


def given(args: argparse.Namespace, options: Iterable[str]) -> dict[str, float]:
    """Those of the options that the command line holds."""
    values = {name.replace("-", "_"): getattr(args, name.replace("-", "_")) for name in options}
    return {name: value for name, value in values.items() if value is not None}


def timeline(turns: Sequence["Turn"], width: int = 60) -> Iterator[str]:
    """Lines for people: a row for each speaker with # where they talk, then every turn."""
    if not turns:
        yield "nobody speaks"
        return
    end = max(turn.end for turn in turns)
    speakers = list(dict.fromkeys(turn.speaker for turn in turns))
    for speaker in speakers:
        own = [turn for turn in turns if turn.speaker == speaker]
        cells = [(n * end / width, (n + 1) * end / width) for n in range(width)]
        row = "".join("#" if any(t.start < b and t.end > a for t in own) else "." for a, b in cells)
        yield f"{speaker} {row} {sum(turn.end - turn.start for turn in own):.1f} s"
    for turn in turns:
        yield f"{turn.start:8.2f} - {turn.end:8.2f}  {turn.speaker}"


if __name__ == "__main__":
    run(main)
