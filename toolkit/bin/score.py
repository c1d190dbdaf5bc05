"""Scores recognition (wer), speaker verification (eer) and diarization (der): files in, table out."""

import argparse
import json
from collections.abc import Iterable
from typing import Any

from toolkit.bin import run
from toolkit.files import atomic_write

PROGRAM = "python -m toolkit.bin.score"

WER_EPILOG = f"""examples:
  {PROGRAM} wer --ref data/test/text --hyp exp/asr/hyp.txt
  {PROGRAM} wer --ref cuts_test.jsonl.gz --hyp hyp.trn --json wer.json --details wer.txt
  {PROGRAM} wer --ref test.stm --hyp test.ctm --lower
  {PROGRAM} wer --ref text --hyp new.txt --baseline old.txt   # is the difference significant?

Formats: Kaldi text (`id words`), trn (`words (id)`), STM, CTM, Lhotse cuts or supervisions (.jsonl,
.jsonl.gz). The format is told by the name (text, *.txt, *.trn, *.stm, *.ctm, *.jsonl), for other names by
the content, and then the table names it; --ref-format and --hyp-format override this. STM against CTM
gives each word to a segment by its middle, as sclite does."""

EER_EPILOG = f"""examples:
  {PROGRAM} eer --trials vox1_O.txt --scores exp/speaker/scores
  {PROGRAM} eer --trials trials --scores scores --p-target 0.01 0.05 --json eer.json
  {PROGRAM} eer --scores scores_with_labels --utt2spk utt2spk   # draws speakers, not trials

Trials: VoxCeleb `1 enroll test` or Kaldi `enroll test target|nontarget`. Scores: `enroll test score`, or
with a label as a fourth column; then --trials may be left out."""

DER_EPILOG = f"""examples:
  {PROGRAM} der --ref ref.rttm --hyp hyp.rttm
  {PROGRAM} der --ref ref/*.rttm --hyp hyp/*.rttm --uem all.uem --collar 0.25 --skip-overlap
  {PROGRAM} der --ref ref.rttm --hyp hyp.rttm --details pieces.txt --json der.json

The collar is md-eval's: SECONDS before and as many after each boundary of the reference are not scored.
Without --uem, what lies between the first and the last boundary of both files is scored, as dscore does."""

Output = tuple[str, dict[str, Any], Iterable[str]]
"""The table, the content of --json, the lines of --details."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="wer|eer|der")
    _add_wer(commands)
    _add_eer(commands)
    _add_der(commands)
    return top


def main(argv: list[str] | None = None) -> None:
    """Reads the files, scores, prints the table, writes what was asked for."""
    args = parser().parse_args(argv)
    table, content, details = {"wer": _wer, "eer": _eer, "der": _der}[args.command](args)
    print(table)
    if args.json:
        with atomic_write(args.json) as file:
            file.write(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    if args.details:
        with atomic_write(args.details) as file:
            file.writelines(f"{line}\n" for line in details)


def _wer(args: argparse.Namespace) -> Output:
    from toolkit.score import matching, table, transcripts, wer

    ref = transcripts.read_transcripts(args.ref, args.ref_format)
    utt2spk = transcripts.read_utt2spk(args.utt2spk) if args.utt2spk else None

    def matched_with(path: str) -> matching.Matched:
        hyp = transcripts.read_transcripts(path, args.hyp_format)
        matched = matching.match(ref, hyp, args.missing, args.extra, utt2spk)
        return matched.normalised(args.lower, args.remove_punctuation)

    matched = matched_with(args.hyp)
    result = wer.score(matched.refs, matched.hyps, matched.speakers, args.replications, args.seed)
    content = {
        **result.to_dict(args.top),
        "missing_hypotheses": matched.missing,
        "extra_hypotheses": matched.extra,
        "references_without_text": matched.untranscribed,
    }
    comparison = baseline = None
    if args.baseline:
        baseline = matched_with(args.baseline)
        scored = wer.score(baseline.refs, baseline.hyps, baseline.speakers, args.replications, args.seed)
        comparison = wer.compare(result, scored)
        content |= {
            **comparison.to_dict(),
            "baseline_missing_hypotheses": baseline.missing,
            "baseline_extra_hypotheses": baseline.extra,
        }
    return table.wer_table(result, matched, comparison, baseline, args.top), content, result.details()


def _eer(args: argparse.Namespace) -> Output:
    from toolkit.score import ScoreError, eer, table, transcripts, trials

    scores = trials.read_scores(args.scores)
    if args.trials:
        asked = trials.read_trials(args.trials)
        values, labels = trials.join(asked, scores, args.extra), asked.labels
    elif scores.labels is None:
        raise ScoreError(
            f"{args.scores}:{scores.lines[0]}: found no label, expected a fourth column or --trials"
        )
    else:
        asked, values, labels = scores, scores.scores, scores.labels
    speakers = trials.speakers_of(asked, transcripts.read_utt2spk(args.utt2spk)) if args.utt2spk else None
    options = (args.p_target, args.c_miss, args.c_fa, speakers, args.replications, args.seed)
    result = eer.score(values, labels, *options)
    return table.eer_table(result), result.to_dict(), eer.details(result, asked.pairs, values, labels)


def _der(args: argparse.Namespace) -> Output:
    from toolkit.score import ScoreError, der, formats, table

    ref, hyp = formats.read_rttm(args.ref), formats.read_rttm(args.hyp)
    uem = formats.read_uem(args.uem) if args.uem else None
    if uem and ref and not uem.keys() & ref.keys():
        raise ScoreError(
            f"{args.uem}: found the recording {min(uem)!r} ({len(uem)} such), which is not in the reference; "
            f"expected at least one that is, such as {min(ref)!r}"
        )
    if args.extra == "ignore":
        known = ref.keys() | (uem or {}).keys()
        hyp = {name: turns for name, turns in hyp.items() if name in known}
    options = (args.collar, args.skip_overlap, args.extent, args.replications, args.seed)
    try:
        result = der.score(ref, hyp, uem, *options)
    except der.NothingToScore as error:
        files = [args.uem] if ref and args.uem else args.ref
        raise ScoreError(f"{', '.join(files)}: {error}") from None
    return table.der_table(result), result.to_dict(), result.details()


def _add_wer(commands: argparse._SubParsersAction) -> None:
    command = _add(commands, "wer", "Word and character error rates with bootstrap intervals.", WER_EPILOG)
    formats = ("text", "trn", "stm", "ctm", "cuts")
    command.add_argument("--ref", metavar="FILE", required=True, help="reference transcripts")
    command.add_argument("--hyp", metavar="FILE", required=True, help="hypothesis transcripts")
    command.add_argument("--ref-format", choices=formats, help="format of the reference")
    command.add_argument("--hyp-format", choices=formats, help="format of the hypothesis and the baseline")
    command.add_argument("--baseline", metavar="FILE", help="a hypothesis to compare with (paired bootstrap)")
    command.add_argument("--utt2spk", metavar="FILE", help="`utterance speaker` lines: a table of speakers")
    command.add_argument("--lower", action="store_true", help="compare in lower case")
    command.add_argument("--remove-punctuation", action="store_true", help="compare without punctuation")
    command.add_argument(
        "--missing",
        choices=("error", "empty"),
        default="error",
        help="utterances without a hypothesis: an error, or all their words deleted (%(default)s)",
    )
    _add_extra(command, "hypotheses without a reference")
    command.add_argument(
        "--top", metavar="N", type=int, default=10, help="frequent errors shown (%(default)s)"
    )
    _add_output(command, "utterance", draws=10000)


def _add_eer(commands: argparse._SubParsersAction) -> None:
    command = _add(commands, "eer", "Equal error rate, minimum detection cost (minDCF) and Cllr.", EER_EPILOG)
    command.add_argument("--trials", metavar="FILE", help="trials with labels")
    command.add_argument(
        "--scores", metavar="FILE", required=True, help="scores, higher for the same speaker"
    )
    command.add_argument(
        "--p-target", metavar="P", type=float, nargs="+", default=[0.01, 0.05], help="priors (0.01 0.05)"
    )
    command.add_argument(
        "--c-miss", metavar="C", type=float, default=1.0, help="cost of a miss (%(default)s)"
    )
    command.add_argument(
        "--c-fa", metavar="C", type=float, default=1.0, help="cost of a false alarm (%(default)s)"
    )
    command.add_argument(
        "--utt2spk", metavar="FILE", help="`utterance speaker` lines: draw speakers, not trials"
    )
    _add_extra(command, "scores of pairs that are not in the trials")
    _add_output(command, "trial", draws=1000)


def _add_der(commands: argparse._SubParsersAction) -> None:
    command = _add(commands, "der", "Diarization and Jaccard error rates.", DER_EPILOG)
    command.add_argument("--ref", metavar="FILE", nargs="+", required=True, help="reference RTTM")
    command.add_argument("--hyp", metavar="FILE", nargs="+", required=True, help="hypothesis RTTM")
    command.add_argument("--uem", metavar="FILE", help="the regions that are scored")
    command.add_argument(
        "--collar", metavar="SECONDS", type=float, default=0.0, help="see below (%(default)s)"
    )
    command.add_argument(
        "--skip-overlap", action="store_true", help="do not score overlapped reference speech"
    )
    command.add_argument(
        "--extent",
        choices=("both", "reference"),
        default="both",
        help="scored without --uem: the extent of both, or of the reference as md-eval (%(default)s)",
    )
    _add_extra(command, "recordings of the hypothesis that neither reference nor UEM names")
    _add_output(command, "stretch of speech", draws=10000)


def _add(
    commands: argparse._SubParsersAction, name: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    return commands.add_parser(
        name, help=description, description=description, epilog=epilog, formatter_class=formatter
    )


def _add_extra(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument(
        "--extra",
        choices=("error", "ignore"),
        default="error",
        help=f"{what}: an error, or left out (%(default)s)",
    )


def _add_output(command: argparse.ArgumentParser, unit: str, draws: int) -> None:
    command.add_argument("--json", metavar="FILE", help="write all figures to FILE")
    command.add_argument("--details", metavar="FILE", help=f"write a record of every {unit} to FILE")
    command.add_argument(
        "--replications", metavar="N", type=int, default=draws, help="bootstrap draws (%(default)s)"
    )
    command.add_argument("--seed", metavar="N", type=int, default=0, help="of the bootstrap (%(default)s)")


if __name__ == "__main__":
    run(main)
