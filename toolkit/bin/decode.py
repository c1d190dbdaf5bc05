"""Turn recordings into text, or find the times of known text."""

import argparse
from pathlib import Path

from toolkit.bin import run
from toolkit.bin._arguments import (
    add_batch_seconds,
    add_device,
    add_max_seconds,
    add_recordings,
    command_parser,
)

EPILOG = """
examples:
  print what is said in audio files:
    python -m toolkit.bin.decode --model exp/asr/model talk.wav more/*.flac
  a manifest, to files that `score wer` takes:
    python -m toolkit.bin.decode --model exp/asr/model --cuts cuts_test.jsonl.gz --out exp/asr/test
  the times of the words and characters of known transcripts:
    python -m toolkit.bin.decode --model exp/asr/model --cuts cuts_train.jsonl.gz --out exp/asr/ali --align

--out gets text (Kaldi: id, words), words.ctm and tokens.ctm (id, channel, start, duration, word, confidence), and
skipped.jsonl with the recordings that could not be used, and why.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = command_parser("decode", __doc__, EPILOG)
    add_recordings(result, "audio files; the text is printed")
    result.add_argument("--model", required=True, metavar="DIR", help="model directory of a recogniser")
    result.add_argument(
        "--out", metavar="DIR", help="folder for text, CTM and skipped.jsonl (needed with --cuts)"
    )
    result.add_argument(
        "--align", action="store_true", help="align the transcripts of the cuts instead of recognising"
    )
    add_max_seconds(result, "longer recordings are skipped")
    add_batch_seconds(result, 120)
    add_device(result)
    return result


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    from toolkit.data.recordings import named_recordings
    from toolkit.errors import UserError
    from toolkit.files import write_jsonl
    from toolkit.progress import progress
    from toolkit.tasks.apply import check_some
    from toolkit.tasks.recognize import Recognizer

    if bool(args.cuts) != bool(args.out) or (args.align and not args.cuts):
        raise UserError(
            "command line: --cuts needs --out, --align needs --cuts, and audio files go without --out"
        )
    recognizer = Recognizer(args.model, args.device, args.max_seconds, args.batch_seconds)
    recordings = named_recordings(args.cuts, args.files, recognizer.sampling_rate)
    skipped: list[dict[str, str]] = []
    found = recognizer.recognize(recordings, transcripts(args.cuts) if args.align else None, skipped)
    if args.out:
        hypotheses = list(progress(found, None, "align" if args.align else "decode"))
        listed = Path(args.out) / "skipped.jsonl"
        write_jsonl(listed, skipped)
        check_some(len(hypotheses), skipped)
        write(Path(args.out), hypotheses)
        print(f"{len(hypotheses)} recordings in {args.out}; {len(skipped)} skipped, listed in {listed}")
    else:
        print_text(found, skipped)


def transcripts(cuts: str) -> dict[str, str]:
    """Cut id -> what is said in it."""
    from toolkit.data.manifests import open_cuts
    from toolkit.tasks.asr import transcript

    return {cut.id: transcript(cut) for cut in open_cuts(cuts)}


def write(folder: Path, hypotheses: list) -> None:
    """Writes the texts and times to --out."""
    from toolkit.files import atomic_write
    from toolkit.tasks.recognize import ctm_line

    with atomic_write(folder / "text") as file:
        file.writelines(f"{hypothesis.id} {hypothesis.text}".rstrip() + "\n" for hypothesis in hypotheses)
    for name in ("words", "tokens"):
        with atomic_write(folder / f"{name}.ctm") as file:
            for hypothesis in hypotheses:
                file.writelines(ctm_line(hypothesis.id, word) for word in getattr(hypothesis, name))


def print_text(found: object, skipped: list[dict[str, str]]) -> None:
    """Prints a line for each audio file, as soon as it is known."""
    import sys

    from toolkit.tasks.apply import check_some

    done = 0
    for hypothesis in found:
        done += 1
        print(f"{hypothesis.id}\t{hypothesis.text}", flush=True)
    check_some(done, skipped)
    for row in skipped:
        print(f"skipped {row['path']}: {row['reason']}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
