"""Turn recordings into text, or find the times of known text."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.bin import run
from toolkit.bin._arguments import (
    add_batch_seconds,
    add_device,
    add_recordings,
    command_parser,
)

if TYPE_CHECKING:
    from toolkit.decode.latency import Simulation
    from toolkit.tasks.recognize import Recognized
    from toolkit.text.tokenizer import Tokenizer

EPILOG = """
examples:
  print what is said in audio files of any length:
    python -m toolkit.bin.decode --model exp/asr/model talk.wav more/*.flac
  subtitles of a film:
    python -m toolkit.bin.decode --model exp/asr/model film.mp4 --format srt --out subtitles
  a manifest, to files that `score wer` takes:
    python -m toolkit.bin.decode --model exp/asr/model --cuts cuts_test.jsonl.gz --out exp/asr/test
  with another search, and one of its settings changed:
    python -m toolkit.bin.decode --model exp/asr/model --cuts cuts_test.jsonl.gz --out exp/asr/beam \\
      --searches modified_beam --searches.modified_beam.beam=8
  several searches at once, each to a folder of its own in --out:
    python -m toolkit.bin.decode --model exp/asr/model --cuts cuts_test.jsonl.gz --out exp/asr/test \\
      --searches egs/librispeech/asr/conf/decode_transducer.yaml
  chunk by chunk, as if it arrived in real time, with latencies (causal models):
    python -m toolkit.bin.decode --model exp/asr/model --cuts cuts_test.jsonl.gz --out exp/asr/stream --streaming \
      --streaming.chunk_size=16
  the times of the words and characters of known transcripts:
    python -m toolkit.bin.decode --model exp/asr/model --cuts cuts_train.jsonl.gz --out exp/asr/ali --align

--out gets text (Kaldi: id, words), words.ctm and tokens.ctm (id, channel, start, duration, word, confidence),
nbest.jsonl from searches with several readings, and skipped.jsonl with the recordings that could not be used, and why.
Where the cuts have transcripts, recogs.txt and errs.txt show the errors in icefall's form, and wer-summary.txt has the
error rate of every search. --streaming adds latency.json: seconds from a token's start until it was shown for good.
A file for --searches has a key for each search:
  greedy: {name: greedy}
  beam_lm: {name: modified_beam, beam: 8, fusion: {ngram: exp/lm/4gram.arpa, ngram_scale: 0.3}}
"""
FORMATS = ("text", "json", "srt", "vtt", "textgrid")


def parser() -> argparse.ArgumentParser:
    """The command line; settings of searches are given as --searches.NAME.key=value."""
    result = command_parser("decode", __doc__, EPILOG, allow_abbrev=False)
    add_recordings(result, "audio files; the text is printed, unless there is --out")
    result.add_argument("--model", required=True, metavar="DIR", help="model directory of a recogniser")
    result.add_argument("--out", metavar="DIR", help="folder for what is found (needed with --cuts)")
    result.add_argument(
        "--searches",
        metavar="NAME|FILE",
        help="a search, such as greedy or ctc_beam, or a YAML file with several (default: the model's greedy one)",
    )
    result.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="how the words of a recording are shown: a line of text, JSON with times, subtitles (srt, vtt), Praat's "
        "TextGrid; with --out also a file for each recording (default: %(default)s)",
    )
    result.add_argument(
        "--align", action="store_true", help="align the transcripts of the cuts instead of recognising"
    )
    result.add_argument(
        "--streaming",
        action="store_true",
        help="simulate that the audio arrives in real time; --streaming.KEY=VALUE sets chunk_size, left_context, "
        "tail_seconds, endpoint.enabled, ...",
    )
    result.add_argument(
        "--window-seconds",
        type=float,
        default=60,
        metavar="S",
        help="longer recordings are recognised in windows of this length, which are joined; --align skips them "
        "(default: %(default)s)",
    )
    result.add_argument(
        "--overlap-seconds", type=float, default=6, metavar="S", help="of two windows (default: %(default)s)"
    )
    add_batch_seconds(result, 120)
    add_device(result)
    return result


def main(argv: list[str] | None = None) -> None:
    args, overrides = parser().parse_known_args(argv)
    from toolkit.data.recordings import named_recordings
    from toolkit.tasks.recognize import Recognizer, WindowConfig
    from toolkit.tasks.searches import is_file
    from toolkit.tasks.streams import read_streaming, recognize_streams

    check(args, overrides)
    window = WindowConfig(args.window_seconds, args.overlap_seconds)
    recognizer = Recognizer(args.model, args.device, window, args.batch_seconds)
    recordings = named_recordings(args.cuts, args.files, recognizer.sampling_rate)
    tokenizer = recognizer.tokenizer
    # What a model says in phones has errors in phones.
    in_phones = not tokenizer.joins and not args.align
    texts = transcripts(args.cuts, tokenizer, in_phones) if args.cuts else {}
    skipped: list[dict[str, str]] = []
    simulations: dict[str, list[Simulation]] = {}
    if args.align:
        names, found = ["align"], recognizer.align(recordings, texts, skipped)
    else:
        of_streaming = [text for text in overrides if text.startswith("--streaming.")]
        searches = recognizer.searches(
            args.searches, [text for text in overrides if text not in of_streaming]
        )
        names = list(searches)
        if args.streaming:
            simulations = {name: [] for name in names}
            streams = searches, read_streaming(of_streaming), simulations
            found = recognize_streams(recognizer, recordings, *streams, skipped)
        else:
            found = recognizer.recognize(recordings, searches, skipped)
    if args.out:
        folders = {name: Path(args.out, name if is_file(args.searches) else "") for name in names}
        write(found, folders, args, texts, skipped)
        for name, course in simulations.items():
            write_latency(folders[name], name, course)
    else:
        show(found, names[0], args.format, skipped)


def check(args: argparse.Namespace, overrides: list[str]) -> None:
    """Refuses arguments that do not go together."""
    from toolkit.errors import UserError
    from toolkit.tasks.searches import is_file

    if args.cuts and not args.out:
        raise UserError("command line: --cuts needs --out")
    if args.align and not args.cuts:
        raise UserError("command line: --align needs --cuts with transcripts")
    if args.align and (args.searches or overrides):
        raise UserError("command line: --align searches nothing; leave out --searches")
    if args.align and args.streaming:
        raise UserError("command line: --align hears the whole recording; leave out --streaming")
    if not args.streaming and any(text.startswith("--streaming.") for text in overrides):
        raise UserError("command line: --streaming.KEY=VALUE needs --streaming")
    if not args.out and is_file(args.searches):
        raise UserError("command line: several searches need --out, a folder for what each of them finds")
    if not args.out and args.format in ("srt", "vtt", "textgrid") and len(args.files) > 1:
        raise UserError(f"command line: --format {args.format} of several files needs --out")


def transcripts(cuts: str, tokenizer: "Tokenizer", in_phones: bool) -> dict[str, str]:
    """Cut id -> what is said in it, in the form in which the model learned such texts; perhaps as phones."""
    from toolkit.data.manifests import open_cuts
    from toolkit.tasks.asr import transcript

    texts = {cut.id: tokenizer.normalize(transcript(cut)) for cut in open_cuts(cuts)}
    if not in_phones:
        return texts
    return {name: tokenizer.decode(tokenizer.encode(text)) for name, text in texts.items()}


def write(
    found: Iterable["Recognized"],
    folders: dict[str, Path],
    args: argparse.Namespace,
    texts: dict[str, str],
    skipped: list[dict[str, str]],
) -> None:
    """Writes the readings of each search to its folder, and a table of their errors."""
    from toolkit.bin._hypotheses import write_errors, write_lines, write_readings, write_shown
    from toolkit.files import write_jsonl
    from toolkit.progress import progress
    from toolkit.score import icefall
    from toolkit.tasks.apply import check_some

    results = list(progress(found, None, "align" if args.align else "decode"))
    out = Path(args.out)
    write_jsonl(out / "skipped.jsonl", skipped)
    check_some(len(results), skipped)
    errors = {}
    for name, folder in folders.items():
        readings = {result.id: result.readings[name] for result in results}
        write_readings(folder, readings)
        if args.format != "text":
            write_shown(folder, readings, args.format)
        if not args.align and (scored := write_errors(folder, readings, texts)):
            errors[name] = scored
    if errors:
        write_lines(out / "wer-summary.txt", icefall.summary(errors))
        print("\n".join(icefall.summary(errors)))
    print(f"{len(results)} recordings in {out}; {len(skipped)} skipped, listed in {out / 'skipped.jsonl'}")


def write_latency(folder: Path, name: str, simulations: list["Simulation"]) -> None:
    """Writes latency.json of a search, and says it in a line."""
    from toolkit.decode.latency import latency
    from toolkit.files import write_json

    found = latency(simulations)
    if found is None:
        print(f"{name}: nothing was said, so there is no latency")
        return
    write_json(folder / "latency.json", found._asdict())
    print(
        f"{name}: latency {found.mean:.2f} s (90 % within {found.percentile90:.2f} s), {found.algorithmic:.2f} s of it "
        f"without computation; real-time factor {found.real_time_factor:.3f}"
    )


def show(found: Iterable["Recognized"], name: str, form: str, skipped: list[dict[str, str]]) -> None:
    """Prints what was found in each audio file, as soon as it is known."""
    import sys

    from toolkit.bin._hypotheses import shown
    from toolkit.tasks.apply import check_some

    done = 0
    for result in found:
        done += 1
        print(shown(form, result.id, result.readings[name][0]), flush=True)
    check_some(done, skipped)
    for row in skipped:
        print(f"skipped {row['path']}: {row['reason']}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
