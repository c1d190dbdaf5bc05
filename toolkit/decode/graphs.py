"""Decoding graphs: CTC topology, lexicon and n-gram model composed into one transducer (Mohri, Pereira & Riley 2002).

H maps a path of CTC to tokens, L tokens to words, G gives words their costs; costs are negative natural logarithms.
Symbols on the input side of a graph are token ids + 1, since 0 is the empty symbol; above them stand the
disambiguation symbols #0 (back-off of the n-gram model), #1, #2, ... (ends of words that are spelled alike, or begin
other words), without which the composition of L and G could not be made deterministic.

Dimensions: V symbols with the blank, W words, E arcs.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from toolkit.decode.vocabulary import Vocabulary
from toolkit.errors import UserError
from toolkit.text.backoff import BEGIN, END, BackoffModel

if TYPE_CHECKING:
    from kaldifst import StdVectorFst

Spelling = tuple[int, tuple[int, ...]]
"""Id of a word, from 1, and its tokens."""


def decoding_graph(vocabulary: Vocabulary, model: BackoffModel, num_symbols: int) -> "StdVectorFst":
    """Builds HLG.

    Args:
        vocabulary: W words, entry 0 included. Those that the model does not know even as <unk> cannot be recognised.
        model: over the words.
        num_symbols: V.

    Returns:
        Input: path symbols + 1. Output: word ids.

    Raises:
        UserError: the model knows none of the words; kaldifst is not installed.
    """
    fst = kaldifst()
    spellings = disambiguate(vocabulary.spellings)
    backoff = num_symbols + 1
    lexicon_graph = lexicon(spellings, backoff, len(vocabulary.words), vocabulary.separator)
    fst.arcsort(lexicon_graph, "olabel")
    language = grammar(vocabulary.words, model)
    fst.arcsort(language, "ilabel")
    graph = fst.compose(lexicon_graph, language)
    fst.determinize_star(graph)
    fst.minimize_encoded(graph)
    fst.connect(graph)
    fst.arcsort(graph, "ilabel")
    return over_paths(graph, num_symbols)


def over_paths(graph: "StdVectorFst", num_symbols: int) -> "StdVectorFst":
    """Composes H with a graph over tokens.

    H has a state for each symbol, which is that of the frame before, and V ** 2 arcs: too many for characters of
    Chinese. So the states of the composition, pairs of a state of the graph and a symbol, are made here directly.

    Args:
        graph: input symbols are token ids + 1; those over V are disambiguation symbols and become empty.
        num_symbols: V.
    """
    arcs, finals, final_costs = _arrays(graph)
    arcs = arcs[np.argsort(arcs["source"], kind="stable")]
    tokens = arcs[(arcs["input"] > 0) & (arcs["input"] <= num_symbols)]
    empty = arcs[(arcs["input"] == 0) | (arcs["input"] > num_symbols)]

    def pair(states: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        return states * num_symbols + symbols

    # After a token, what is empty leads on to further states with the same symbol.
    pairs = new = np.unique(pair(tokens["target"], tokens["input"] - 1))
    while len(new):
        states, symbols = np.divmod(new, num_symbols)
        origin, arc = _leaving(states, empty["source"])
        new = np.setdiff1d(pair(empty["target"][arc], symbols[origin]), pairs)
        pairs = np.union1d(pairs, new)
    blanks = pair(np.arange(graph.num_states), np.zeros(graph.num_states, dtype=np.int64))
    pairs = np.concatenate([blanks, pairs])
    states, symbols = np.divmod(pairs, num_symbols)
    spoken = pairs[symbols > 0]
    origin, arc = _leaving(states, tokens["source"])
    other = tokens["input"][arc] - 1 != symbols[origin]
    origin, said = origin[other], tokens[arc[other]]
    passing, arc = _leaving(states, empty["source"])
    passed = empty[arc]
    ends, place = _leaving(states, finals)
    stays = symbols[symbols > 0] + 1
    zeros = np.zeros(len(spoken) + len(pairs), dtype=np.int64)
    result = _compile(
        int(pair(np.array(graph.start), np.array(0))),
        np.concatenate([pairs[origin], pairs[passing], spoken, pairs]),
        np.concatenate(
            [
                pair(said["target"], said["input"] - 1),
                pair(passed["target"], symbols[passing]),
                spoken,
                pair(states, np.zeros_like(states)),
            ]
        ),
        np.concatenate([said["input"], np.zeros(len(passed), dtype=np.int64), stays, np.ones_like(pairs)]),
        np.concatenate([said["output"], passed["output"], zeros]),
        np.concatenate([said["cost"], passed["cost"], zeros]),
        pairs[ends],
        final_costs[place],
    )
    kaldifst().connect(result)
    kaldifst().arcsort(result, "ilabel")
    return result


def _arrays(graph: "StdVectorFst") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arcs (E,) as records; final states, ascending, and their costs."""
    lines = graph.to_str(show_weight_one=True, fst_field_separator=" ").splitlines()
    names = ("source", "target", "input", "output", "cost")
    arcs, finals = [], []
    for line in lines:
        (arcs if line.count(" ") == len(names) - 1 else finals).append(line)
    columns = np.fromstring("\n".join(arcs), sep=" ").reshape(-1, len(names)).T
    records = np.rec.fromarrays([*columns[:-1].astype(np.int64), columns[-1]], names=",".join(names))
    states, costs = np.fromstring("\n".join(finals), sep=" ").reshape(-1, 2).T
    order = np.argsort(states)
    return records, states[order].astype(np.int64), costs[order]


def _leaving(states: np.ndarray, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a place in `states` and a place in `sources`, which ascend, that hold the same state."""
    first = np.searchsorted(sources, states)
    counts = np.searchsorted(sources, states, side="right") - first
    origin = np.repeat(np.arange(len(states)), counts)
    begin = np.cumsum(counts) - counts
    return origin, np.arange(len(origin)) + (first - begin)[origin]


def disambiguate(spellings: Iterable[Spelling]) -> list[tuple[Spelling, int]]:
    """Gives a number to spellings that are those of several words or that begin others.

    Returns:
        Each distinct spelling with its number, 0 for none.
    """
    distinct = sorted(set(spellings))
    counts = Counter(tokens for _, tokens in distinct)
    beginnings = {tokens[:end] for tokens in counts for end in range(1, len(tokens))}
    seen: Counter[tuple[int, ...]] = Counter()
    numbered = []
    for word, tokens in distinct:
        number = 0
        if counts[tokens] > 1 or tokens in beginnings:
            seen[tokens] += 1
            number = seen[tokens]
        numbered.append(((word, tokens), number))
    return numbered


def lexicon(
    spellings: Sequence[tuple[Spelling, int]], backoff: int, num_words: int, separator: int | None = None
) -> "StdVectorFst":
    """L: token ids + 1 to word ids, with a disambiguation symbol after the spellings that have a number.

    Args:
        spellings: of `disambiguate`.
        backoff: the symbol #0 of the input side; symbol number n is `backoff + n`. On the output side it is
            `num_words`.
        num_words: W.
        separator: a token with which all spellings begin; the first word may come without it.
    """
    # Between words; before the first word; after the separator.
    loop, start, first = 0, 1, 2
    arcs = [(loop, loop, backoff, num_words)]
    if separator is None:
        start = entry = loop
    else:
        entry = first
        arcs += [(start, start, backoff, num_words), (start, loop, 0, 0), (start, first, 0, 0)]
        arcs.append((loop, first, separator + 1, 0))
    fresh = 3
    for (word, tokens), number in spellings:
        inputs = [token + 1 for token in tokens[separator is not None :]]
        inputs += [backoff + number] if number else []
        state = entry
        for position, symbol in enumerate(inputs):
            last = position == len(inputs) - 1
            arcs.append((state, loop if last else fresh, symbol, 0 if position else word))
            state, fresh = fresh, fresh + (not last)
    source, target, labels, words = np.array(arcs).T
    finals = np.unique([loop, start])
    costs = np.zeros(len(arcs))
    return _compile(start, source, target, labels, words, costs, finals, np.zeros(len(finals)))


def grammar(words: Sequence[str], model: BackoffModel) -> "StdVectorFst":
    """G: the n-gram model as an acceptor of word ids; #0, which is W, leads to the shorter context.

    Words that the model does not list take the place of its <unk>.
    """
    ids = {word: index for index, word in enumerate(words) if index}
    listed = np.array([ids.get(word, 0) for word in model.words])
    strangers = [index for word, index in ids.items() if word not in model.ids]
    if len(strangers) == len(ids) and model.unknown is None:
        names = ", ".join(map(repr, words[1:4]))
        raise UserError(
            f"{model.source}: found none of the words of the lexicon, such as {names}; expected these"
        )
    contexts, last = np.divmod(model.keys, len(model.words))
    costs = -math.log(10) * model.log_probs.astype(np.float64)
    # N-grams of words of the lexicon, and those of <unk> once for each word that the model does not list.
    spoken = np.flatnonzero(listed[last] > 0)
    unknown = np.flatnonzero(last == (-1 if model.unknown is None else model.unknown))
    ngrams = np.concatenate([spoken, np.repeat(unknown, len(strangers))])
    labels = np.concatenate(
        [listed[last[spoken]], np.tile(np.array(strangers, dtype=np.int64), len(unknown))]
    )
    # A state is a context; its back-off leads to a shorter one.
    nodes = np.flatnonzero(model.states == np.arange(len(model.states)))[1:]
    ends = np.flatnonzero(last == model.ids[END])
    return _compile(
        int(model.states[model.ids[BEGIN] + 1]),
        np.concatenate([contexts[ngrams], nodes]),
        np.concatenate([model.states[ngrams + 1], model.states[model.suffixes[nodes]]]),
        np.concatenate([labels, np.full(len(nodes), len(words))]),
        np.concatenate([labels, np.zeros(len(nodes), dtype=np.int64)]),
        np.concatenate([costs[ngrams], -math.log(10) * model.backoffs[nodes - 1]]),
        contexts[ends],
        costs[ends],
    )


def _compile(
    start: int,
    source: np.ndarray,
    target: np.ndarray,
    inputs: np.ndarray,
    outputs: np.ndarray,
    costs: np.ndarray,
    finals: np.ndarray,
    final_costs: np.ndarray,
) -> "StdVectorFst":
    """A transducer of E arcs (all arrays (E,)) and final states with their costs."""
    rows = zip(*(row.tolist() for row in (source, target, inputs, outputs, costs)), strict=True)
    lines = [f"{a} {b} {i} {o} {cost:.7g}\n" for a, b, i, o, cost in rows]
    lines += [f"{a} {cost:.7g}\n" for a, cost in zip(finals.tolist(), final_costs.tolist(), strict=True)]
    # The state of the first line is the initial one.
    where = np.concatenate([source, finals]) != start
    return kaldifst().compile("".join(lines[index] for index in np.argsort(where, kind="stable").tolist()))


def kaldifst() -> ModuleType:
    """The module of that name.

    Raises:
        UserError: it is not installed.
    """
    try:
        import kaldifst
    except ImportError:
        raise UserError('decoding graphs: kaldifst is not installed; pip install -e ".[fst]"') from None
    return kaldifst
