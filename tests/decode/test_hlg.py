"""Decoding graphs, and searches in them, against plain enumeration."""

import itertools
import math
import sys

import kaldifst
import pytest
import torch

from tests.decode.grammar import ARPA, NGRAMS, SPELLINGS, LogProbs, ngram_model, texts, vocabulary
from toolkit.decode.ctc_beam import CtcBeamConfig, prefix_search
from toolkit.decode.graphs import decoding_graph, disambiguate, grammar, over_paths
from toolkit.decode.hlg import Hlg, HlgConfig, K2Search, KaldiSearch, graph_search, load_graph, save_graph
from toolkit.decode.words import WordsConfig, WordSearch
from toolkit.errors import UserError
from toolkit.text.arpa import read_arpa
from toolkit.text.tokenizer import CharTokenizer

V = 4
WIDE = {"beam": 1000.0, "max_active": 10**6, "lattice_beam": 1000.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ngram_model(tmp_path_factory.mktemp("arpa"))


def random_log_probs(count, frames, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, frames, V, generator=generator).log_softmax(-1)


def best_paths(log_probs):
    """Tokens -> (log-probability, path) of the best path that collapses to them, for one utterance (T, V)."""
    found = {}
    rows = log_probs.tolist()
    for path in itertools.product(range(V), repeat=len(rows)):
        tokens = tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)
        score = sum(row[symbol] for row, symbol in zip(rows, path, strict=True))
        found[tokens] = max(found.get(tokens, (-math.inf,)), (score, path))
    return found


def shortest(words, context=("<s>",)):
    """Log-probability of a text where any context may be shortened at the cost of its back-off, as in a graph."""
    if not words:
        return 0.0
    best = -math.inf
    context = context[-2:]
    while context and context not in NGRAMS:
        context = context[1:]
    if (*context, words[0]) in NGRAMS:
        best = NGRAMS[(*context, words[0])][0] + shortest(words[1:], (*context, words[0]))
    if context:
        best = max(best, NGRAMS[context][1] + shortest(words, context[1:]))
    return best


def best_texts(log_probs, scale, spellings=SPELLINGS, optional=False):
    """Every text that fits, with its score and the tokens that spell it best; the best first."""
    paths, found = best_paths(log_probs), {}
    for text, tokens in texts(len(log_probs) + optional, spellings):
        for spelled in {tokens, tokens[optional:]}:
            if spelled in paths:
                score = paths[spelled][0] + scale * shortest((*text, "</s>"))
                found[text] = max(found.get(text, (-math.inf,)), (score, spelled))
    return sorted(((score, text, tokens) for text, (score, tokens) in found.items()), reverse=True)


def read(hypothesis):
    return tuple(word.text for word in hypothesis.words), tuple(token.id for token in hypothesis.tokens)


def test_the_topology_is_that_of_ctc():
    loop = kaldifst.compile("0 0 2 1\n0 0 3 2\n0\n")  # any tokens
    graph = over_paths(loop, 3)
    for path in itertools.product(range(3), repeat=4):
        linear = kaldifst.make_linear_acceptor([symbol + 1 for symbol in path])
        paths = kaldifst.compose(linear, graph)
        (only,) = kaldifst.convert_nbest_to_vector(kaldifst.shortest_path(paths, n=9))
        _, inputs, outputs, _ = kaldifst.get_linear_symbol_sequence(only)
        assert [symbol - 1 for symbol in inputs] == list(path)
        assert outputs == [symbol for symbol, _ in itertools.groupby(path) if symbol]


def test_the_grammar_gives_the_costs_of_the_ngram_model(model):
    words = ["", *"ABCDE"]  # The model does not know E.
    graph = grammar(words, model)
    fst = graph.copy(True)
    for count in range(4):
        for text in itertools.product("ABCDE", repeat=count):
            labels = [words.index(word) for word in text]
            loops = kaldifst.make_linear_acceptor(labels)
            for state in range(count + 1):
                loops.add_arc(state, kaldifst.StdArc(len(words), len(words), 0.0, state))
            kaldifst.arcsort(loops, "olabel")
            kaldifst.arcsort(fst, "ilabel")
            best = kaldifst.shortest_path(kaldifst.compose(loops, fst))
            cost = kaldifst.get_linear_symbol_sequence(best)[3].value if best.num_states else math.inf
            expected = math.inf if "E" in text else -shortest((*text, "</s>"))
            assert cost == pytest.approx(expected, abs=1e-4)


def test_disambiguation_symbols_are_where_they_are_needed():
    spellings = [(1, (1,)), (2, (1, 2)), (3, (2,)), (4, (2,)), (4, (3, 1)), (4, (3, 1))]
    assert dict(disambiguate(spellings)) == {
        (1, (1,)): 1,
        (2, (1, 2)): 0,
        (3, (2,)): 1,
        (4, (2,)): 2,
        (4, (3, 1)): 0,
    }


@pytest.mark.parametrize("nbest", [1, 5])
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_the_graph_holds_what_enumeration_finds(model, nbest, scale):
    log_probs, lengths = random_log_probs(6, 5, seed=1), torch.tensor([5, 5, 4, 3, 1, 0])
    words = vocabulary()
    search = KaldiSearch(decoding_graph(words, model, V), HlgConfig(nbest=nbest, scale=scale, **WIDE))
    for row, found in enumerate(graph_search(log_probs, lengths, search, words)):
        expected = best_texts(log_probs[row, : lengths[row]], scale)[:nbest]
        assert [h.score for h in found] == pytest.approx([score for score, *_ in expected], abs=0.01)
        for hypothesis, (score, text, tokens) in zip(found, expected, strict=True):
            near = [other for other in expected if abs(other[0] - score) < 0.02]
            assert len(near) > 1 or read(hypothesis) == (text, tokens)


def test_times_are_those_of_the_path(model):
    log_probs = torch.full((1, 8, V), -9.0)
    log_probs[0, range(8), [0, 1, 1, 0, 0, 3, 1, 0]] = 0.0
    words = vocabulary()
    search = KaldiSearch(decoding_graph(words, model, V), HlgConfig())
    ((best,),) = graph_search(log_probs.log_softmax(-1), torch.tensor([8]), search, words)
    assert [(w.text, w.start, w.end) for w in best.words] == [("A", 1, 3), ("D", 5, 7)]
    assert [(t.id, t.start, t.end) for t in best.tokens] == [(1, 1, 3), (3, 5, 6), (1, 6, 7)]
    assert all(word.score == pytest.approx(0, abs=0.01) for word in best.words)


def test_unknown_words_take_the_place_of_unk(tmp_path):
    path = tmp_path / "words.arpa"
    path.write_text(ARPA.replace("\tC\n", "\t<unk>\n"))
    model = read_arpa(path)
    graph = grammar(["", "A", "C", "E"], model)
    costs = [line.split()[2:] for line in graph.to_str(show_weight_one=True).splitlines()]
    expected = f"{1.3 * math.log(10):.5f}"
    assert [(row[0], f"{float(row[2]):.5f}") for row in costs if row and row[0] in "23"] == [
        ("2", expected),
        ("3", expected),
    ]


def test_the_first_word_comes_without_the_separator(model):
    spellings = [(word, (3, *tokens)) for word, tokens in SPELLINGS[:4]]
    words = vocabulary(spellings, space=3)
    search = KaldiSearch(decoding_graph(words, model, V), HlgConfig(nbest=4, scale=1.0, **WIDE))
    log_probs = random_log_probs(3, 5, seed=2)
    for row, found in enumerate(graph_search(log_probs, torch.tensor([5, 5, 5]), search, words)):
        expected = best_texts(log_probs[row], 1.0, spellings, optional=True)[:4]
        assert [h.score for h in found] == pytest.approx([score for score, *_ in expected], abs=0.01)
        assert [read(h) for h in found] == [(text, tokens) for _, text, tokens in expected]


def test_prefix_beam_search_over_best_paths_finds_the_same(model):
    """Without contexts whose shortening gains: there alone does the graph give more than the model."""
    log_probs, lengths = random_log_probs(8, 20, seed=3), torch.arange(13, 21)
    words = vocabulary()
    config = HlgConfig(scale=0.5, beam=30.0)
    graph = KaldiSearch(decoding_graph(words, model, V), config)
    beam = CtcBeamConfig(beam=60, token_beam=3, paths="best")
    other = prefix_search(log_probs, lengths, beam, words=WordSearch(words, V, "cpu", model, WordsConfig()))
    for (one,), (two,) in zip(graph_search(log_probs, lengths, graph, words), other, strict=True):
        assert one.score >= two.score - 0.02
        if one.score < two.score + 0.02:
            assert read(one) == read(two)


def test_a_graph_is_saved_and_loaded(model, tmp_path):
    tokens = ["<blk>", "x", "y", "z"]
    tokenizer = CharTokenizer(tokens)
    words = vocabulary()
    graph = decoding_graph(words, model, V)
    save_graph(tmp_path, graph, words, tokens)
    again, known = load_graph(tmp_path, tokenizer)
    assert again.to_str() == graph.to_str()
    assert (known.words, sorted(known.spellings)) == (words.words, sorted(words.spellings))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "HLG.fst",
        "lexicon.txt",
        "tokens.txt",
        "words.txt",
    ]
    log_probs, lengths = random_log_probs(2, 12, seed=4), torch.tensor([12, 9])
    search = Hlg(HlgConfig(graph=str(tmp_path)), LogProbs(), tokenizer, "cpu")
    expected = graph_search(log_probs, lengths, KaldiSearch(graph, HlgConfig()), words)
    assert search(log_probs, lengths) == expected and expected[0][0].words


@pytest.mark.parametrize("damage", ["nothing", "missing", "other tokens", "fewer tokens", "cut off"])
def test_graphs_that_cannot_be_used(model, tmp_path, damage):
    tokens = ["<blk>", "x", "y", "z"]
    save_graph(tmp_path, decoding_graph(vocabulary(), model, V), vocabulary(), tokens)
    graph = tmp_path / "HLG.fst"
    message = {
        "nothing": "graph: found null, expected the folder",
        "missing": "HLG.fst: no such file, expected a graph made by",
        "other tokens": "tokens.txt:3: found 'y', expected 'q' as in the tokens of the model",
        "fewer tokens": "tokens.txt:4: found 'z', expected 'the end'",
        "cut off": "HLG.fst: damaged",
    }[damage]
    if damage == "missing":
        graph.unlink()
    if damage == "cut off":
        graph.write_bytes(graph.read_bytes()[:-9])
    used = {"other tokens": ["<blk>", "x", "q", "z"], "fewer tokens": tokens[:3]}.get(damage, tokens)
    config = HlgConfig(graph=None if damage == "nothing" else str(tmp_path))
    with pytest.raises(UserError, match=message) as caught:
        Hlg(config, LogProbs(), CharTokenizer(used), "cpu")
    assert "\n" not in str(caught.value)


def test_a_model_of_other_words(model):
    with pytest.raises(
        UserError, match="words.arpa: found none of the words of the lexicon, such as 'a', 'b'"
    ):
        decoding_graph(vocabulary([("a", (1,)), ("b", (2,))]), model, V)


@pytest.mark.parametrize("name", ["kaldifst", "kaldi_decoder", "k2"])
def test_what_is_not_installed_is_named(model, tmp_path, monkeypatch, name):
    save_graph(tmp_path, decoding_graph(vocabulary(), model, V), vocabulary(), ["<blk>", "x", "y", "z"])
    config = HlgConfig(graph=str(tmp_path), backend="k2" if name == "k2" else "kaldi")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"{name.replace('_', '-')}.* not installed"):
        Hlg(config, LogProbs(), CharTokenizer(["<blk>", "x", "y", "z"]), "cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"beam": 0}, "beam must be over 0"), ({"nbest": 2, "backend": "k2"}, "nbest must be 1 for k2")],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        HlgConfig(**settings)


def test_k2_finds_the_same(model):
    pytest.importorskip("k2")
    log_probs, lengths = random_log_probs(6, 20, seed=5), torch.tensor([20, 13, 17, 20, 5, 9])
    words, config = vocabulary(), HlgConfig(beam=30.0)
    graph = decoding_graph(words, model, V)
    expected = graph_search(log_probs, lengths, KaldiSearch(graph, config), words)
    for (one,), (two,) in zip(
        graph_search(log_probs, lengths, K2Search(graph, config, "cpu"), words), expected, strict=True
    ):
        assert one.score == pytest.approx(two.score, abs=0.01) and read(one) == read(two)
