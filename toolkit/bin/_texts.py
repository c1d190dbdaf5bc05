"""The sentences that commands read: text files, or the transcripts of cuts."""

import argparse
from collections.abc import Iterator, Sequence
from itertools import chain

TEXTS = "text, a sentence a line (.gz is unpacked), or cuts (.jsonl, .jsonl.gz or a Shar folder)"


def add_texts(options: argparse.ArgumentParser) -> None:
    options.add_argument("texts", nargs="+", metavar="TEXT", help=TEXTS)


def read_texts(names: Sequence[str]) -> Iterator[str]:
    """The sentences of text files and of the transcripts of cuts that are not empty.

    Raises:
        UserError: one of them is not there, or damaged.
    """
    from toolkit.tasks.lm import sentences

    sources = [sentences(name, "command line") for name in names]
    return (sentence.text for sentence in chain.from_iterable(sources) if sentence.text)
