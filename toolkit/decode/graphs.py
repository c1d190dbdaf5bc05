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
    spellings, ends = disambiguate(vocabulary.spellings)
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
    topology = ctc_topology(num_symbols, range(backoff, backoff + 1 + ends))
    fst.arcsort(topology, "olabel")
    graph = fst.compose(topology, graph)
    fst.connect(graph)
    fst.arcsort(graph, "ilabel")
    return graph


def ctc_topology(num_symbols: int, passed: Iterable[int] = ()) -> "StdVectorFst":
    """H: every path of CTC, and the tokens that it collapses to.

    State 0 comes after a blank and at the beginning, state s after token s, from which s comes again without output.

    Args:
        num_symbols: V; there are V ** 2 arcs.
        passed: disambiguation symbols of the graph on the right, which become empty.
    """
    symbols = np.arange(num_symbols)
    source, target = (grid.ravel() for grid in np.meshgrid(symbols, symbols, indexing="ij"))
    outputs = np.where((target == 0) | (source == target), 0, target + 1)
    passed = np.fromiter(passed, dtype=np.int64)
    loops, marks = np.repeat(symbols, len(passed)), np.tile(passed, num_symbols)
    return _compile(
        0,
        np.concatenate([source, loops]),
        np.concatenate([target, loops]),
        np.concatenate([target + 1, np.zeros_like(marks)]),
        np.concatenate([outputs, marks]),
        np.zeros(len(source) + len(loops)),
        symbols,
        np.zeros(num_symbols),
    )


def disambiguate(spellings: Iterable[Spelling]) -> tuple[list[tuple[Spelling, int]], int]:
    """Gives a number to spellings that are those of several words or that begin others.

    Returns:
        Each distinct spelling with its number, 0 for none, and the highest number.
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
    return numbered, max((number for _, number in numbered), default=0)


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
