"""Makes, checks, splits and packs manifests: from a folder of your own audio to cuts that training reads."""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.bin import run
from toolkit.bin._arguments import command_parser
from toolkit.errors import UserError
from toolkit.processes import num_cores

if TYPE_CHECKING:
    from toolkit.data.split import Count

EPILOG = """
examples:
  a folder of recordings, without transcripts:
    python -m toolkit.bin.prepare folder recordings/ data/mine
  with transcripts (Kaldi `text`, or path<TAB>text[<TAB>speaker]; else .txt files beside the audio are read):
    python -m toolkit.bin.prepare folder recordings/ data/mine --transcripts recordings/text --language en
  check a manifest for a task, decoding everything:
    python -m toolkit.bin.prepare validate data/mine/cuts.jsonl.gz --task asr --decode --out good.jsonl.gz
  pack cuts and their audio into tar files, to be read in sequence from a slow disk or over a network:
    python -m toolkit.bin.prepare shar data/mine/cuts_train.jsonl.gz data/mine/shar

Every manifest is a Lhotse cut set; whatever takes one takes a Shar folder as well.
"""

FOLDER_EPILOG = """
Writes to OUT: cuts.jsonl.gz (all), cuts_train.jsonl.gz, cuts_valid.jsonl.gz, cuts_test.jsonl.gz, and
skipped.jsonl with a line {"id", "path", "reason"} for every file that cannot be used. WAV and FLAC files of
16 kHz and one channel are used where they lie; all others are converted to such FLAC files in OUT/audio. The
same command, given again, looks only at files that are new or have changed.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    result = command_parser("prepare", __doc__, EPILOG)
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_folder(
        commands.add_parser(
            "folder", help="a folder of audio to cuts", epilog=FOLDER_EPILOG, formatter_class=raw
        )
    )
    add_validate(
        commands.add_parser("validate", help="which cuts of a manifest can be used, and why others cannot")
    )
    add_split(commands.add_parser("split", help="a manifest to training, validation and test sets"))
    add_shar(commands.add_parser("shar", help="cuts and their audio to tar files (Lhotse Shar)"))
    return result


def add_folder(result: argparse.ArgumentParser) -> None:
    result.add_argument("folder", type=Path, metavar="FOLDER", help="audio files, in folders of any depth")
    result.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    result.add_argument(
        "--transcripts", type=Path, metavar="FILE", help="Kaldi `text`, or .tsv or .csv (see the example)"
    )
    result.add_argument("--language", metavar="CODE", help="language of all that is said, such as en")
    result.add_argument(
        "--keep-text", action="store_true", help="leave case and punctuation of transcripts as they are"
    )
    result.add_argument(
        "--speaker",
        choices=("none", "folder"),
        default="none",
        help="folder: the first folder below FOLDER names the speaker",
    )
    result.add_argument(
        "--channel", type=int, metavar="N", help="take channel N (from 0); else the mean of all channels"
    )
    result.add_argument(
        "--min-duration", type=float, default=0.1, metavar="S", help="shortest cut (default: 0.1 s)"
    )
    result.add_argument(
        "--max-duration",
        type=float,
        default=30.0,
        metavar="S",
        help="longest cut (default: 30 s); files without transcript are cut up, others are skipped",
    )
    result.add_argument(
        "--no-decode", action="store_true", help="trust the headers of files that need no conversion"
    )
    add_limits(result)
    add_split_options(result)
    add_threads(result)


def add_validate(result: argparse.ArgumentParser) -> None:
    result.add_argument("cuts", metavar="CUTS", help="manifest (.jsonl, .jsonl.gz) or Shar folder")
    result.add_argument(
        "--task",
        choices=("ssl", "asr", "speaker", "diarization"),
        default="ssl",
        help="what the cuts are for",
    )
    result.add_argument(
        "--decode", action="store_true", help="decode all audio; otherwise files are only looked up"
    )
    result.add_argument(
        "--out", type=Path, metavar="FILE", help="manifest to write with the cuts that can be used"
    )
    result.add_argument(
        "--skipped",
        type=Path,
        metavar="FILE",
        help="list of the others (default: *.skipped.jsonl beside OUT or CUTS)",
    )
    add_limits(result)
    add_threads(result)


def add_split(result: argparse.ArgumentParser) -> None:
    result.add_argument("cuts", metavar="CUTS", help="manifest (.jsonl or .jsonl.gz)")
    result.add_argument(
        "out", type=Path, metavar="OUT", help="folder to write cuts_{train,valid,test}.jsonl.gz to"
    )
    add_split_options(result)


def add_shar(result: argparse.ArgumentParser) -> None:
    result.add_argument("cuts", metavar="CUTS", help="manifest (.jsonl or .jsonl.gz)")
    result.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    result.add_argument(
        "--shard-size", type=int, default=1000, metavar="N", help="cuts in a tar file (default: 1000)"
    )
    result.add_argument(
        "--format", choices=("flac", "wav"), default="flac", help="audio format (default: flac)"
    )


def add_limits(result: argparse.ArgumentParser) -> None:
    result.add_argument(
        "--max-clipped",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="most samples at full scale (default: 0.05)",
    )
    result.add_argument(
        "--min-level",
        type=float,
        default=-70.0,
        metavar="DB",
        help="softer files are silent (default: -70 dB)",
    )


def add_split_options(result: argparse.ArgumentParser) -> None:
    result.add_argument(
        "--valid", type=float, default=0.05, metavar="SHARE", help="share for validation (default: 0.05)"
    )
    result.add_argument(
        "--test", type=float, default=0.05, metavar="SHARE", help="share for testing (default: 0.05)"
    )
    result.add_argument(
        "--split-by",
        choices=("sentence", "speaker", "file"),
        default="sentence",
        help="what stays together (default: cuts of one sentence; cuts without text go by file)",
    )
    result.add_argument("--seed", type=int, default=0, help="decides what goes where (default: 0)")


def add_threads(result: argparse.ArgumentParser) -> None:
    result.add_argument("--threads", type=int, default=num_cores(), metavar="N", help="default: one a CPU")


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    {"folder": prepare_folder, "validate": validate_cuts, "split": split_cuts, "shar": pack}[args.command](
        args
    )


def prepare_folder(args: argparse.Namespace) -> None:
    """Folder to cuts: probe, pair with transcripts, split, say what was found."""
    from contextlib import closing

    from toolkit.data.folder import FolderConfig, Summary, folder_cuts, probe_folder
    from toolkit.data.levels import Limits
    from toolkit.data.split import Split, write_splits
    from toolkit.data.transcripts import Transcripts
    from toolkit.data.validate import skipped_list

    config = FolderConfig(
        channel=args.channel,
        decode=not args.no_decode,
        max_duration=args.max_duration,
        min_duration=args.min_duration,
        speaker_from_folder=args.speaker == "folder",
        language=args.language,
        keep_text=args.keep_text,
        limits=Limits(args.max_clipped, args.min_level),
        num_threads=args.threads,
    )
    split = Split(args.valid, args.test, args.split_by, args.seed)
    transcripts = Transcripts(args.transcripts, args.folder) if args.transcripts else None
    summary = Summary()
    skipped = args.out / "skipped.jsonl"
    with closing(probe_folder(args.folder, args.out, config)) as index, skipped_list(skipped) as skip:
        cuts = folder_cuts(index, args.folder, config, transcripts, summary, skip)
        counts = write_splits(cuts, args.out, split, together=True)
    print(f"{args.folder}: {summary.num_files} audio files, {summary.num_used} used")
    say_kinds("converted to 16 kHz, one channel, FLAC", summary.converted)
    if any(", " in what for what in summary.converted):
        print(
            "several channels: "
            + ("their mean" if args.channel is None else f"channel {args.channel}")
            + " was taken"
        )
    say_kinds(f"skipped ({skipped})", skip.kinds)
    if transcripts is not None:
        count, names = transcripts.unused()
        if count:
            print(f"{args.transcripts}: {count} lines name no usable file, such as {', '.join(names)}")
    if not summary.num_used:
        raise UserError(f"{args.folder}: no file can be used, so no manifest was written")
    say_splits(counts)


def validate_cuts(args: argparse.Namespace) -> None:
    """Cuts to those that can be used, and a list of the others."""
    from dataclasses import replace

    from toolkit.data.levels import Limits
    from toolkit.data.manifests import open_cuts
    from toolkit.data.validate import TASKS, validate, write_valid
    from toolkit.progress import progress

    rules = replace(TASKS[args.task], limits=Limits(args.max_clipped, args.min_level))
    cuts = progress(open_cuts(args.cuts), None, "validate")
    skipped = args.skipped or beside(args.out or Path(args.cuts))
    kept, kinds = write_valid(validate(cuts, rules, args.decode, args.threads), args.out, skipped)
    print(f"{args.cuts}: {kept} cuts can be used for {args.task}")
    say_kinds(f"skipped ({skipped})", kinds)
    if not kept:
        raise UserError(f"{args.cuts}: no cut can be used for {args.task}")


def split_cuts(args: argparse.Namespace) -> None:
    """Cuts to training, validation and test sets."""
    from toolkit.data.manifests import open_cuts
    from toolkit.data.split import Split, write_splits
    from toolkit.progress import progress

    split = Split(args.valid, args.test, args.split_by, args.seed)
    say_splits(write_splits(progress(open_cuts(args.cuts), None, "split"), args.out, split))


def pack(args: argparse.Namespace) -> None:
    """Cuts to a Shar folder."""
    from toolkit.data.manifests import open_cuts
    from toolkit.data.shar import write_shar
    from toolkit.data.validate import skipped_list
    from toolkit.progress import progress

    skipped = beside(args.out)
    with skipped_list(skipped) as skip:
        count = write_shar(
            progress(open_cuts(args.cuts), None, "pack"), args.out, args.shard_size, args.format, skip
        )
    print(f"{args.out}: {count} cuts in tar files of {args.shard_size}")
    say_kinds(f"skipped ({skipped})", skip.kinds)


def beside(path: Path) -> Path:
    """Where the list of skipped cuts goes: a/cuts.jsonl.gz has a/cuts.skipped.jsonl."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".jsonl") + ".skipped.jsonl")


def say_splits(counts: "dict[str, Count]") -> None:
    """Prints what each split holds."""
    from toolkit.data.split import table

    print(table(counts))
    for name, count in counts.items():
        if not count.cuts:
            print(f"no cut fell into {name}; another --seed or larger shares change that")


def say_kinds(label: str, kinds: Counter) -> None:
    """Prints counts by kind, the most frequent first, if there are any."""
    if kinds:
        print(f"{label}: " + "; ".join(f"{count} {kind}" for kind, count in kinds.most_common()))


if __name__ == "__main__":
    run(main, goes_on=sys.argv[1:2] == ["folder"])
