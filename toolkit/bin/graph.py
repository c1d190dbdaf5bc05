"""Make a decoding graph of a lexicon and an n-gram model, for the search hlg."""

import argparse

from toolkit.bin import run
from toolkit.bin._arguments import command_parser

EPILOG = """
examples:
  the words of a 3-gram model, spelled by the tokenizer of a recogniser:
    python -m toolkit.bin.graph --model exp/asr/model --arpa data/lm/3gram.arpa.gz --out exp/asr/hlg
  with a lexicon (a word and its tokens a line) and a search in the graph:
    python -m toolkit.bin.graph --model exp/asr/model --lexicon lexicon.txt --arpa 3gram.arpa --out exp/asr/hlg
    python -m toolkit.bin.decode --model exp/asr/model --searches hlg --searches.hlg.graph=exp/asr/hlg talk.wav

--out gets HLG.fst (OpenFst; paths of CTC to words; input symbols are token ids + 1), words.txt, tokens.txt and
lexicon.txt. Needs pip install -e ".[fst]".
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = command_parser("graph", __doc__, EPILOG)
    result.add_argument(
        "--model", required=True, metavar="DIR", help="model directory of a recogniser with a CTC head"
    )
    result.add_argument(
        "--arpa", required=True, metavar="FILE", help="n-gram model over words (.arpa or .arpa.gz)"
    )
    result.add_argument(
        "--lexicon", metavar="FILE", help="words and their tokens (default: as the tokenizer spells them)"
    )
    result.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    return result


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    from toolkit.decode.graphs import decoding_graph, kaldifst
    from toolkit.decode.hlg import save_graph
    from toolkit.decode.vocabulary import load_vocabulary
    from toolkit.text.arpa import read_arpa
    from toolkit.text.tokenizer import load_tokenizer

    # Said before the files are read, which takes minutes.
    kaldifst()
    tokenizer = load_tokenizer(args.model)
    model = read_arpa(args.arpa)
    vocabulary = load_vocabulary(args.lexicon, model, tokenizer)
    graph = decoding_graph(vocabulary, model, len(tokenizer.tokens))
    save_graph(args.out, graph, vocabulary, tokenizer.tokens)
    arcs = sum(graph.num_arcs(state) for state in range(graph.num_states))
    print(f"{len(vocabulary.words) - 1} words, {graph.num_states} states, {arcs} arcs in {args.out}")


if __name__ == "__main__":
    run(main)
