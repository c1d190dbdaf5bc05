"""Estimates n-gram models from text or transcripts (ARPA files), or measures how well one predicts text."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from toolkit.bin import run
from toolkit.bin._arguments import command_parser
from toolkit.bin._texts import TEXTS, add_texts

if TYPE_CHECKING:
    from toolkit.text.backoff import BackoffModel

EPILOG = """
examples:
  trigrams of words, and how well they predict other text:
    python -m toolkit.bin.ngram estimate text.txt.gz --order 3 --out lm.arpa.gz --test data/cuts_valid.jsonl.gz
  5-grams of the tokens of a recogniser, for its searches (rare ones left out):
    python -m toolkit.bin.ngram estimate text.txt --model exp/asr/model --order 5 --prune 0 0 1 --out tokens.arpa
  of its words, normalised as its transcripts are, those of a lexicon only:
    python -m toolkit.bin.ngram estimate text.txt --model exp/asr/model --words --vocabulary lexicon.txt --out lm.arpa
  how well a model predicts text:
    python -m toolkit.bin.ngram perplexity lm.arpa.gz data/cuts_test.jsonl.gz

Interpolated modified Kneser-Ney smoothing. The text is held in memory; for more than some hundred million words use
KenLM's lmplz, whose files are read just as well.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = command_parser("ngram", __doc__, EPILOG)
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    estimate = commands.add_parser("estimate", help="text to an n-gram model")
    add_texts(estimate)
    estimate.add_argument(
        "--out", required=True, metavar="FILE", help="ARPA file to write; .gz is compressed"
    )
    estimate.add_argument(
        "--order", type=int, default=3, metavar="N", help="of the longest n-grams (default: 3)"
    )
    add_units(estimate)
    estimate.add_argument(
        "--vocabulary",
        metavar="FILE",
        help="list of words, or a lexicon: the model has these, and others are <unk>",
    )
    estimate.add_argument(
        "--prune",
        nargs="+",
        type=int,
        default=[0],
        metavar="COUNT",
        help="for each order: leave out n-grams that occur so often or less; the first must be 0, the last holds for "
        "all higher orders (default: 0)",
    )
    estimate.add_argument("--test", nargs="+", default=[], metavar="TEXT", help=f"to predict: {TEXTS}")
    perplexity = commands.add_parser("perplexity", help="how well an n-gram model predicts text")
    perplexity.add_argument("arpa", metavar="ARPA", help="the model")
    add_texts(perplexity)
    add_units(perplexity)
    return result


def add_units(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--model", metavar="DIR", help="model directory, or folder of a tokenizer, whose tokens are counted"
    )
    options.add_argument(
        "--words", action="store_true", help="count words all the same; the model says how text is normalised"
    )


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    {"estimate": make, "perplexity": measure}[args.command](args)


def make(args: argparse.Namespace) -> None:
    """Text to an ARPA file."""
    from toolkit.bin._output import counted
    from toolkit.errors import UserError
    from toolkit.text.arpa import write_arpa
    from toolkit.text.ngram import estimate

    try:
        found = estimate(
            units(args, args.texts), args.order, vocabulary(args), args.prune, ", ".join(args.texts)
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"command line: {error}") from None
    if args.test:
        say_perplexity(found.model, args, args.test)
    write_arpa(args.out, found.model)
    print(
        f"learned from {counted(found.num_sentences, 'sentence')}, {counted(found.num_words, 'word')}, of which "
        f"{found.num_unknown} unknown"
    )
    for order, (size, discounts) in enumerate(zip(found.model.sizes, found.discounts, strict=True), 1):
        note = " (too little text to tell)" if order in found.fallbacks else ""
        print(f"{order}-grams: {size}; discounts {', '.join(f'{value:.3f}' for value in discounts)}{note}")
    print(args.out)


def measure(args: argparse.Namespace) -> None:
    """ARPA file and text to a perplexity."""
    from toolkit.text.arpa import read_arpa

    say_perplexity(read_arpa(args.arpa), args, args.texts)


def say_perplexity(model: "BackoffModel", args: argparse.Namespace, names: list[str]) -> None:
    """Prints how well a model predicts text."""
    from toolkit.bin._output import counted
    from toolkit.text.backoff import evaluate

    found = evaluate(model, units(args, names), ", ".join(names))
    print(
        f"{counted(found.num_sentences, 'sentence')}, {counted(found.num_words, 'word')}, of which "
        f"{found.num_unknown} unknown; log10 P {found.log_prob:.2f}, perplexity {found.perplexity:.2f}"
    )


def units(args: argparse.Namespace, names: list[str]) -> Iterator[list[str]]:
    """Words or tokens of the sentences."""
    from toolkit.bin._texts import read_texts
    from toolkit.errors import UserError
    from toolkit.text.tokenizer import load_tokenizer

    texts = read_texts(names)
    if args.model is None:
        if args.words:
            raise UserError("command line: --words goes with --model")
        return (text.split() for text in texts)
    tokenizer = load_tokenizer(args.model)
    if args.words:
        return (tokenizer.normalize(text).split() for text in texts)
    return ([tokenizer.tokens[index] for index in tokenizer.encode(text)] for text in texts)


def vocabulary(args: argparse.Namespace) -> list[str] | None:
    """The words that the model is to list; None for those of the text."""
    from toolkit.files import read_lines
    from toolkit.text.tokenizer import load_tokenizer

    if args.vocabulary is not None:
        lines = read_lines(args.vocabulary, "a word a line, or a lexicon")
        return [line.split()[0] for line in lines if line.strip()]
    # All tokens but the blank, as they are those that a search asks for.
    return None if args.model is None or args.words else load_tokenizer(args.model).tokens[1:]


if __name__ == "__main__":
    run(main)
