"""Learns a tokenizer from text or transcripts, or shows what one makes of them."""

import argparse

from toolkit.bin import run
from toolkit.bin._arguments import command_parser
from toolkit.bin._texts import add_texts

EPILOG = """
examples:
  500 sub-word units of the training transcripts, which tokenizer.folder of a training takes over:
    python -m toolkit.bin.tokenizer learn data/cuts_train.jsonl.gz --out data/bpe500 --set type=bpe --set vocab_size=500
  characters in lower case and without punctuation, of text a sentence a line:
    python -m toolkit.bin.tokenizer learn text.txt --out data/chars --set normalize=[punctuation,lower]
  what a sentence becomes:
    python -m toolkit.bin.tokenizer encode data/bpe500 "IT WAS A DARK AND STORMY NIGHT"
  what of other transcripts the vocabulary lacks:
    python -m toolkit.bin.tokenizer coverage exp/asr/model data/cuts_test.jsonl.gz

A folder has tokens.txt, tokenizer.yaml (type and normalisation) and, depending on the type, tokenizer.model or
lexicon.txt. A model directory of a recogniser is such a folder. A training without tokenizer.folder learns its own.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = command_parser("tokenizer", __doc__, EPILOG)
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    learn = commands.add_parser("learn", help="text to a tokenizer")
    add_texts(learn)
    learn.add_argument("--out", required=True, metavar="DIR", help="new folder for it")
    learn.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of the section tokenizer of a training: type, vocab_size, lexicon, normalize",
    )
    encode = commands.add_parser("encode", help="show the symbols of a sentence")
    add_folder(encode)
    encode.add_argument("text", help="the sentence")
    coverage = commands.add_parser("coverage", help="count the symbols of text, and what is unknown")
    add_folder(coverage)
    add_texts(coverage)
    return result


def add_folder(options: argparse.ArgumentParser) -> None:
    options.add_argument("folder", metavar="DIR", help="folder of a tokenizer, or model directory")


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    {"learn": learn, "encode": encode, "coverage": coverage}[args.command](args)


def learn(args: argparse.Namespace) -> None:
    """Text to a folder."""
    from pathlib import Path

    from toolkit import config
    from toolkit.bin._output import check_new
    from toolkit.bin._texts import read_texts
    from toolkit.text.tokenizer import TokenizerConfig, learn_tokenizer

    overrides = [f"--{override}" for override in args.set]
    settings = config.load(TokenizerConfig, None, overrides)
    folder = Path(args.out)
    check_new(folder)
    check_some(args.texts)
    tokenizer = learn_tokenizer(read_texts(args.texts), settings)
    tokenizer.save(folder)
    print(f"{folder}: {len(tokenizer.tokens)} symbols")
    say_coverage(tokenizer, args.texts)


def check_some(names: list[str]) -> None:
    """Refuses sources without a sentence."""
    from toolkit.bin._texts import read_texts
    from toolkit.errors import UserError

    if next(read_texts(names), None) is None:
        raise UserError(f"{', '.join(names)}: found no text, expected some")


def encode(args: argparse.Namespace) -> None:
    """Prints the steps from a sentence to ids and back."""
    from toolkit.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(args.folder)
    ids = tokenizer.encode(args.text)
    print("normalised:", tokenizer.normalize(args.text))
    print("symbols:   ", *(tokenizer.tokens[index] for index in ids))
    print("ids:       ", *ids)
    print("decoded:   ", tokenizer.decode(ids))
    if unknown := tokenizer.unknown(args.text):
        print("unknown:   ", *dict.fromkeys(unknown))


def coverage(args: argparse.Namespace) -> None:
    """Counts symbols, and what is unknown."""
    from toolkit.text.tokenizer import load_tokenizer

    check_some(args.texts)
    say_coverage(load_tokenizer(args.folder), args.texts)


def say_coverage(tokenizer: object, names: list[str]) -> None:
    """Prints how much text there is and what the vocabulary lacks, most frequent first."""
    from collections import Counter

    from toolkit.bin._output import counted
    from toolkit.bin._texts import read_texts

    num_sentences, num_words, num_symbols, num_hit = 0, 0, 0, 0
    missing: Counter[str] = Counter()
    example: dict[str, str] = {}
    for text in read_texts(names):
        unknown = tokenizer.unknown(text)
        num_sentences += 1
        num_words += len(tokenizer.normalize(text).split())
        num_symbols += len(tokenizer.encode(text))
        num_hit += bool(unknown)
        missing.update(unknown)
        example |= {part: text for part in unknown if part not in example}
    share = num_symbols / max(1, num_words)
    print(
        f"{counted(num_sentences, 'sentence')}, {counted(num_words, 'word')}, "
        f"{counted(num_symbols, 'symbol')} ({share:.2f} a word)"
    )
    print(f"unknown: {missing.total()} in {counted(num_hit, 'sentence')}, {len(missing)} different")
    for part, count in missing.most_common(20):
        print(f"{count:>8} {part!r} (in {example[part][:60]!r})")


if __name__ == "__main__":
    run(main)
