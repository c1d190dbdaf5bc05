"""The words of AISHELL: of its training transcripts, in which spaces part them, and of its lexicon."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from lhotse.recipes.aishell import text_normalize

from toolkit.bin import run
from toolkit.data.manifests import open_cuts
from toolkit.errors import UserError
from toolkit.files import atomic_write, read_lines

NO_WORDS = ("SIL", "<SPOKEN_NOISE>")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument(
        "--corpus", required=True, type=Path, metavar="DIR", help="with data_aishell and resource_aishell"
    )
    result.add_argument("--cuts", required=True, metavar="FILE", help="cuts whose transcripts are wanted")
    result.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder for text.txt and words.txt"
    )
    return result


def main(argv: list[str] | None = None) -> None:
    """Writes both lists."""
    args = parser().parse_args(argv)
    wanted = {cut.id for cut in open_cuts(args.cuts)}
    texts = list(transcripts(args.corpus / "data_aishell/transcript/aishell_transcript_v0.8.txt", wanted))
    words = dict.fromkeys(lexicon_words(args.corpus / "resource_aishell/lexicon.txt"))
    for name, lines in (("text.txt", texts), ("words.txt", words)):
        with atomic_write(args.out / name) as file:
            file.writelines(f"{line}\n" for line in lines)
    print(f"{args.out}: {len(texts)} sentences, {len(words)} words")


def transcripts(path: Path, wanted: set[str]) -> Iterator[str]:
    """The sentences of the wanted utterances; UserError if there are none."""
    found = False
    for line in read_lines(path, "transcripts"):
        name, *words = line.split()
        if name in wanted and words:
            found = True
            # As lhotse prepare writes them.
            yield text_normalize(" ".join(words))
    if not found:
        raise UserError(f"{path}: found none of the utterances of the training set")


def lexicon_words(path: Path) -> Iterator[str]:
    """The words of the lexicon, once for each pronunciation."""
    for line in read_lines(path, "a lexicon"):
        word, *_ = line.split(maxsplit=1) or [""]
        if word and word not in NO_WORDS:
            yield text_normalize(word)


if __name__ == "__main__":
    run(main)
