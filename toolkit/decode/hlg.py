"""Search in a decoding graph: the best words for CTC by a lexicon and an n-gram model.

The graph is a folder: HLG.fst as OpenFst writes it, words.txt and tokens.txt with a symbol and its id a line, and
lexicon.txt with the spellings, from which it is known which tokens are which words'.

Dimensions: B utterances, T frames, V symbols.
"""

import errno
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from toolkit.decode.ctc import tokens_of_path, with_ctc
from toolkit.decode.graphs import kaldifst
from toolkit.decode.hypothesis import Hypothesis
from toolkit.decode.vocabulary import Vocabulary, load_vocabulary
from toolkit.errors import UserError
from toolkit.files import atomic_write, read_text
from toolkit.models.asr import AsrModel
from toolkit.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from kaldifst import Lattice, StdVectorFst

GRAPH = "HLG.fst"
NEVER = float("-inf")

Found = tuple[float, list[int], list[int]]
"""Score, the symbol of each frame, ids of words."""


@dataclass
class HlgConfig:
    """Search in a decoding graph."""

    name: str = "hlg"
    """Which search this is."""
    graph: str | None = None
    """Folder of the graph, made by `python -m toolkit.bin.graph`."""
    scale: float = 0.5
    """Of the n-gram model's log-probabilities."""
    beam: float = 16.0
    """Paths whose score is so much below the best one's are dropped."""
    max_active: int = 3000
    """States of the graph kept after each frame; with nbest over 1 only by k2."""
    nbest: int = 1
    """Hypotheses returned for each utterance, of different words."""
    lattice_beam: float = 8.0
    """With nbest over 1: paths whose score is so much below the best one's are no alternatives."""
    backend: Literal["auto", "kaldi", "k2"] = "auto"
    """Which program searches: kaldi-decoder, or k2, which "auto" takes on a GPU where it is installed."""

    def __post_init__(self) -> None:
        for name in ("scale", "beam", "max_active", "nbest", "lattice_beam"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be over 0, got {getattr(self, name)}")
        if self.nbest > 1 and self.backend == "k2":
            raise ValueError(f"nbest must be 1 for k2, got {self.nbest}")


class Hlg:
    """The best words in a decoding graph.

    Raises:
        UserError: the model has no CTC head, the graph is missing, damaged or for other tokens, or the program that
            searches is not installed.
    """

    Config = HlgConfig

    def __init__(
        self, config: HlgConfig, model: AsrModel, tokenizer: Tokenizer, device: torch.device | str
    ) -> None:
        self.config, self.model = config, with_ctc(model, config.name)
        if config.graph is None:
            raise UserError(
                "hlg: graph: found null, expected the folder of a graph (python -m toolkit.bin.graph)"
            )
        graph, self.vocabulary = load_graph(config.graph, tokenizer)
        search = K2Search if _with_k2(config, torch.device(device)) else KaldiSearch
        self.search = search(graph, config, device)

    @torch.no_grad()
    def __call__(self, frames: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        """(B, T, D) frames of the encoder and (B,) how many are valid, to B n-best lists."""
        return graph_search(self.model.ctc_log_probs(frames), lengths, self.search, self.vocabulary)


def graph_search(
    log_probs: Tensor, lengths: Tensor, search: "KaldiSearch | K2Search", vocabulary: Vocabulary
) -> list[list[Hypothesis]]:
    """Searches for the best words.

    Args:
        log_probs: (B, T, V) of CTC; symbol 0 is the blank.
        lengths: (B,) valid frames.
        search: in a graph.
        vocabulary: words of the graph.

    Returns:
        B n-best lists. An unfinished word at the end of an utterance is left out.
    """
    rows = zip(log_probs.float().cpu(), search(log_probs, lengths), strict=True)
    return [[_hypothesis(one, row, vocabulary) for one in nbest] for row, nbest in rows]


def _hypothesis(found: Found, log_probs: Tensor, vocabulary: Vocabulary) -> Hypothesis:
    score, path, words = found
    symbols = torch.tensor(path, dtype=torch.long)
    scores = log_probs[: len(path)].gather(1, symbols[:, None])[:, 0]
    tokens = tokens_of_path(symbols, scores)
    ends = vocabulary.ends([token.id for token in tokens], words)
    tokens = tokens[: ends[-1][1] if ends else 0]
    return Hypothesis(tokens, score, vocabulary.timed(tokens, ends))


class KaldiSearch:
    """Search by kaldi-decoder, an utterance after another.

    Args:
        graph: HLG.
        config: how wide.
        device: not used; it searches on the CPU.

    Raises:
        UserError: kaldi-decoder is not installed.
    """

    def __init__(self, graph: "StdVectorFst", config: HlgConfig, device: torch.device | str = "cpu") -> None:
        if find_spec("kaldi_decoder") is None:
            raise UserError('hlg: kaldi-decoder is not installed; pip install -e ".[fst]"')
        self.graph, self.config = graph, config

    def __call__(self, log_probs: Tensor, lengths: Tensor) -> list[list[Found]]:
        """(B, T, V) and (B,) to the best paths of each utterance."""
        # The scale of the graph is 1, so that the other side is scaled instead.
        scaled = (log_probs.float() / self.config.scale).cpu().numpy()
        rows = [
            np.ascontiguousarray(row[:length]) for row, length in zip(scaled, lengths.tolist(), strict=True)
        ]
        return [self._search(row) for row in rows]

    def _search(self, log_probs: np.ndarray) -> list[Found]:
        # A lattice needs at least one frame.
        return (
            self._best(log_probs)
            if self.config.nbest == 1 or not len(log_probs)
            else self._several(log_probs)
        )

    def _best(self, log_probs: np.ndarray) -> list[Found]:
        from kaldi_decoder import DecodableCtc, FasterDecoder, FasterDecoderOptions

        options = FasterDecoderOptions(
            beam=self.config.beam / self.config.scale, max_active=self.config.max_active
        )
        decoder = FasterDecoder(self.graph, options)
        decoder.decode(DecodableCtc(log_probs))
        exists, path = decoder.get_best_path()
        if not exists:
            return [(NEVER, [], [])]
        _, inputs, words, cost = kaldifst().get_linear_symbol_sequence(path)
        return [self._found(cost.value1 + cost.value2, inputs, words)]

    def _several(self, log_probs: np.ndarray) -> list[Found]:
        from kaldi_decoder import DecodableCtc, LatticeSimpleDecoder, LatticeSimpleDecoderConfig

        config = self.config
        options = LatticeSimpleDecoderConfig(
            beam=config.beam / config.scale, lattice_beam=config.lattice_beam / config.scale
        )
        decoder = LatticeSimpleDecoder(self.graph, options)
        decoder.decode(DecodableCtc(log_probs))
        exists, lattice = decoder.get_raw_lattice()
        if not exists:
            return [(NEVER, [], [])]
        return [self._found(*path) for path in best_of_words(lattice, config.nbest)]

    def _found(self, cost: float, inputs: list[int], words: list[int]) -> Found:
        return -cost * self.config.scale, [symbol - 1 for symbol in inputs], words


def best_of_words(lattice: "Lattice", count: int) -> list[tuple[float, list[int], list[int]]]:
    """The best path of each of the `count` best word sequences of a lattice, best first: cost, inputs, words.

    Each state keeps that many different beginnings and their best paths. No more are needed, since what follows them
    is the same.
    """
    arcs, finals = _read(lattice)
    # State -> number of its beginning (0 for no words) -> cost and links to the path.
    reached: dict[int, dict[int, tuple[float, tuple]]] = {lattice.start: {0: (0.0, ())}}
    beginnings: dict[tuple[int, int], int] = {}
    complete: dict[int, tuple[float, tuple]] = {}
    for state in _topological(lattice.start, arcs):
        kept = sorted(reached.pop(state).items(), key=lambda entry: entry[1][0])[:count]
        for beginning, (cost, path) in kept:
            total = cost + finals.get(state, math.inf)
            if total < complete.get(beginning, (math.inf,))[0]:
                complete[beginning] = total, path
            for target, symbol, word, more in arcs.get(state, ()):
                longer = beginnings.setdefault((beginning, word), len(beginnings) + 1) if word else beginning
                there = reached.setdefault(target, {})
                if longer not in there or cost + more < there[longer][0]:
                    there[longer] = cost + more, (path, symbol, word)
    found = []
    for cost, path in sorted(complete.values(), key=lambda entry: entry[0])[:count]:
        symbols, words = [], []
        while path:
            path, symbol, word = path
            symbols += [symbol] if symbol else []
            words += [word] if word else []
        found.append((cost, symbols[::-1], words[::-1]))
    return found


def _read(lattice: "Lattice") -> tuple[dict[int, list[tuple[int, int, int, float]]], dict[int, float]]:
    """State -> its arcs (target, input, output, cost); final state -> its cost."""
    arcs: dict[int, list[tuple[int, int, int, float]]] = {}
    finals = {}
    for line in lattice.to_str(show_weight_one=True).splitlines():
        *place, weight = line.split()
        cost = sum(map(float, weight.split(",")))
        if len(place) == 1:
            finals[int(place[0])] = cost
        else:
            source, *rest = map(int, place)
            arcs.setdefault(source, []).append((*rest, cost))
    return arcs, finals


def _topological(start: int, arcs: dict[int, list[tuple[int, int, int, float]]]) -> list[int]:
    """States in an order in which all arcs lead on; they form no circle."""
    waiting = Counter(target for own in arcs.values() for target, *_ in own)
    order = [start]
    for state in order:
        for target, *_ in arcs.get(state, ()):
            waiting[target] -= 1
            if not waiting[target]:
                order.append(target)
    return order


class K2Search:
    """Search by k2, all utterances at once on the device.

    Args:
        graph: HLG.
        config: how wide; nbest is 1.
        device: of the search.
    """

    def __init__(self, graph: "StdVectorFst", config: HlgConfig, device: torch.device | str) -> None:
        import k2

        self.config = config
        # 0 is the empty symbol until the arcs that have it are gone, and the blank afterwards.
        fsa = k2.remove_epsilon(k2.Fsa.from_openfst(graph.to_str(show_weight_one=True), acceptor=False))
        fsa.labels = torch.where(fsa.labels > 0, fsa.labels - 1, fsa.labels)
        fsa.scores = fsa.scores * config.scale
        self.graph = k2.arc_sort(k2.connect(fsa)).to(device)

    def __call__(self, log_probs: Tensor, lengths: Tensor) -> list[list[Found]]:
        """(B, T, V) and (B,) to the best path of each utterance."""
        import k2

        lengths = lengths.cpu()
        # As k2 wants them: the longest first, and no empty ones.
        order = lengths.argsort(descending=True)[: int((lengths > 0).sum())]
        found: list[list[Found]] = [[(NEVER, [], [])] for _ in lengths]
        if not len(order):
            return found
        rows = torch.stack([order, torch.zeros_like(order), lengths[order]], dim=1).int()
        dense = k2.DenseFsaVec(log_probs.float().contiguous(), rows)
        lattice = k2.intersect_dense_pruned(
            self.graph,
            dense,
            search_beam=self.config.beam,
            output_beam=self.config.lattice_beam,
            min_active_states=30,
            max_active_states=self.config.max_active,
        )
        best = k2.shortest_path(lattice, use_double_scores=True)
        scores = best.get_tot_scores(use_double_scores=True, log_semiring=False).tolist()
        for place, row in enumerate(order.tolist()):
            path = best[place]
            words = path.aux_labels.tolist()
            if isinstance(path.aux_labels, k2.RaggedTensor):
                words = [word for own in words for word in own]
            symbols = [label for label in path.labels.tolist() if label >= 0]
            found[row] = [(scores[place], symbols, [word for word in words if word > 0])]
        return found


def _with_k2(config: HlgConfig, device: torch.device) -> bool:
    installed = find_spec("k2") is not None
    if config.backend == "k2" and not installed:
        raise UserError(
            "hlg: backend: found k2, which is not installed; expected kaldi, or tools/install_k2.sh to install it"
        )
    return config.backend == "k2" or (
        config.backend == "auto" and installed and device.type == "cuda" and config.nbest == 1
    )


def save_graph(
    folder: str | Path, graph: "StdVectorFst", vocabulary: Vocabulary, tokens: Sequence[str]
) -> None:
    """Writes the folder of a graph."""
    folder = Path(folder)
    words = vocabulary.words
    for name, symbols in (("tokens", tokens), ("words", ["<eps>", *words[1:]])):
        with atomic_write(folder / f"{name}.txt") as file:
            file.writelines(f"{symbol} {index}\n" for index, symbol in enumerate(symbols))
    with atomic_write(folder / "lexicon.txt") as file:
        for word, spelling in sorted(vocabulary.spellings, key=lambda entry: entry[0]):
            file.write(f"{words[word]} {' '.join(tokens[token] for token in spelling)}\n")
    # OpenFst writes to a name only.
    path, unfinished = folder / GRAPH, folder / f".{GRAPH}.tmp"
    if not graph.write(str(unfinished)):
        raise OSError(errno.EIO, "cannot be written", str(path))
    os.replace(unfinished, path)


def load_graph(folder: str | Path, tokenizer: Tokenizer) -> "tuple[StdVectorFst, Vocabulary]":
    """Reads the folder of a graph.

    Args:
        folder: of `save_graph`.
        tokenizer: of the model that it is for.

    Raises:
        UserError: it is missing, damaged or for other tokens.
    """
    path = Path(folder) / GRAPH
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a graph made by python -m toolkit.bin.graph")
    check_tokens(Path(folder) / "tokens.txt", tokenizer.tokens)
    graph = kaldifst().StdVectorFst.read(str(path))
    if graph is None:
        raise UserError(f"{path}: damaged, expected a graph as OpenFst writes it")
    return graph, load_vocabulary(path.with_name("lexicon.txt"), None, tokenizer)


def check_tokens(path: Path, tokens: Sequence[str]) -> None:
    """Compares a file of tokens with those of a model; UserError where they differ."""
    found = [line.rpartition(" ")[0] for line in read_text(path, "the tokens of a graph").splitlines()]
    if found != list(tokens):
        pairs = enumerate(zip_longest(found, tokens, fillvalue="the end"), 1)
        number, (other, own) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
        raise UserError(f"{path}:{number}: found {other!r}, expected {own!r} as in the tokens of the model")
