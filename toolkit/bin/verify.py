"""Score pairs of recordings: do they have the same speaker?"""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from toolkit.bin import run
from toolkit.bin._arguments import add_device, add_max_seconds, command_parser

if TYPE_CHECKING:
    from toolkit.decode.embedding import Embeddings
    from toolkit.score.trials import Trials

EPILOG = """
examples:
  a score for each trial of a list:
    python -m toolkit.bin.verify --trials trials.txt --embeddings exp/speaker/test.safetensors \\
      --output scores.txt
  the same, with what all recordings share taken off:
    python -m toolkit.bin.verify --trials trials.txt --embeddings exp/speaker/test.safetensors \\
      --output scores.txt --cohort exp/speaker/train.safetensors
  one score for two audio files:
    python -m toolkit.bin.verify one.wav other.wav --model exp/speaker/model

A score is the cosine of two embeddings, from -1 to 1: the higher, the more likely it is one speaker. Trials
are VoxCeleb's `1 enroll test` or Kaldi's `enroll test target|nontarget`; the output has a line `enroll test
score` for each, which `score eer` reads.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = command_parser("verify", __doc__, EPILOG)
    trials = result.add_argument_group("a list of trials")
    trials.add_argument("--trials", metavar="FILE", help="pairs of recordings")
    trials.add_argument("--embeddings", metavar="FILE", help="embeddings of both sides, from `embed`")
    trials.add_argument("--output", metavar="FILE", help="scores to write")
    files = result.add_argument_group("two recordings")
    files.add_argument("files", nargs="*", metavar="AUDIO", help="two audio files")
    files.add_argument("--model", metavar="DIR", help="model directory of a speaker model")
    add_max_seconds(files, "only so much of a recording is used")
    add_device(files)
    result.add_argument(
        "--cohort", metavar="FILE", help="embeddings of other speakers, whose mean is subtracted"
    )
    return result


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    from toolkit.errors import UserError

    if args.files:
        if len(args.files) != 2 or not args.model:
            raise UserError(f"command line: found {len(args.files)} audio files, expected two, and --model")
        compare_files(args)
    elif args.trials and args.embeddings and args.output:
        score_trials(args)
    else:
        raise UserError(
            "command line: expected --trials, --embeddings, --output, or two audio files and --model"
        )


def compare_files(args: argparse.Namespace) -> None:
    """Prints the score of two audio files."""
    from toolkit.data.recordings import file_blocks, first_samples
    from toolkit.decode.embedding import Embeddings, cosine_scores, embed_all
    from toolkit.tasks.apply import SpeakerEmbedder

    embedder = SpeakerEmbedder(args.model, args.device, args.cohort)
    rate = embedder.sampling_rate
    voices = [first_samples(file_blocks(path, rate), args.max_seconds, rate, path) for path in args.files]
    pair = Embeddings(args.files, embed_all(voices, embedder, max_samples=1))
    (score,) = cosine_scores(pair, [(0, 1)])
    print(f"{score:.4f}")


def score_trials(args: argparse.Namespace) -> None:
    """Writes a score for each trial."""
    from toolkit.decode.embedding import Embeddings, cohort_mean, cosine_scores
    from toolkit.files import atomic_write
    from toolkit.score.trials import read_trials

    trials = read_trials(args.trials)
    embeddings = Embeddings.load(args.embeddings)
    if args.cohort:
        embeddings = embeddings.centred(cohort_mean(args.cohort, embeddings.vectors.shape[1]))
    scores = cosine_scores(embeddings, rows_of(trials, embeddings, args.embeddings))
    with atomic_write(args.output) as file:
        file.writelines(f"{pair} {score:.6f}\n" for pair, score in zip(trials.pairs, scores, strict=True))
    print(f"{len(trials.pairs)} scores in {args.output}")


def rows_of(trials: "Trials", embeddings: "Embeddings", source: str) -> Iterator[tuple[int, int]]:
    """The rows of both sides of each trial; raises UserError if one has no embedding."""
    from toolkit.errors import UserError

    for pair, line in zip(trials.pairs, trials.lines, strict=True):
        enroll, test = pair.split(" ")
        for name in (enroll, test):
            if name not in embeddings.rows:
                raise UserError(f"{trials.path}:{line}: found {name!r}, expected a recording in {source}")
        yield embeddings.rows[enroll], embeddings.rows[test]


if __name__ == "__main__":
    run(main)
