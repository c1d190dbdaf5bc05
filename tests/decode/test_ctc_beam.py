"""Prefix beam search against the enumeration of all paths."""

import itertools
import math
from collections import defaultdict

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.decode.bigram import Bigram
from tests.decode.grammar import ARPA, SPELLINGS, LogProbs, ngram_model, text_score, texts, vocabulary
from toolkit.config import build
from toolkit.decode.ctc import greedy
from toolkit.decode.ctc_beam import CtcBeam, CtcBeamConfig, PrefixSearch, prefix_search
from toolkit.decode.ngram import NgramScorer
from toolkit.decode.scorer import Sum
from toolkit.decode.vocabulary import Vocabulary
from toolkit.decode.words import WordsConfig, WordSearch
from toolkit.errors import UserError
from toolkit.text.arpa import read_arpa
from toolkit.text.tokenizer import CharTokenizer


def random_log_probs(count, frames, symbols, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, frames, symbols, generator=generator, dtype=torch.float64)
    return (scale * scores).log_softmax(-1)


def all_prefixes(log_probs, paths="sum"):
    """Token sequence -> log-probability, over all (V ** T) paths of one utterance (T, V)."""
    found = defaultdict(list)
    rows = log_probs.tolist()
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(rows)):
        score = sum(row[symbol] for row, symbol in zip(rows, path, strict=True))
        if score > -math.inf:
            found[tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)].append(score)
    join = (
        max
        if paths == "best"
        else (lambda scores: torch.tensor(scores, dtype=torch.float64).logsumexp(0).item())
    )
    return {prefix: join(scores) for prefix, scores in found.items()}


def ranked(scores):
    return sorted(scores.items(), key=lambda item: -item[1])


def ids(hypothesis):
    return tuple(token.id for token in hypothesis.tokens)


def assert_same(found, expected, count):
    assert [ids(hypothesis) for hypothesis in found] == [prefix for prefix, _ in expected[:count]]
    assert [h.score for h in found] == pytest.approx([score for _, score in expected[:count]], abs=1e-9)


@pytest.mark.parametrize("paths", ["sum", "best"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_wide_beam_finds_what_enumeration_finds(paths, fused):
    config = CtcBeamConfig(beam=200, nbest=20, paths=paths, length_bonus=0.3)
    log_probs = random_log_probs(4, 5, 4, seed=1)
    lengths = torch.tensor([5, 4, 1, 5])
    scorer = Bigram(4, seed=2, dtype=torch.float64) if fused else None
    for row, found in enumerate(prefix_search(log_probs, lengths, config, scorer)):
        scores = all_prefixes(log_probs[row, : lengths[row]], paths)
        for prefix in scores:
            scores[prefix] += 0.3 * len(prefix) + (scorer.of(prefix) if fused else 0)
        assert_same(found, ranked(scores), 20)


def test_probabilities_of_all_prefixes_sum_to_one():
    config = CtcBeamConfig(beam=200, nbest=200)
    (found,) = prefix_search(random_log_probs(1, 5, 4, seed=3), torch.tensor([5]), config)
    assert sum(math.exp(h.score) for h in found) == pytest.approx(1, abs=1e-9)
    assert (
        len({ids(h) for h in found}) == len(found) == len(all_prefixes(random_log_probs(1, 5, 4, seed=3)[0]))
    )


def test_a_beam_of_one_over_best_paths_is_greedy_search():
    log_probs = random_log_probs(20, 50, 6, seed=4)
    lengths = torch.arange(31, 51)
    expected = greedy(log_probs, lengths)
    found = prefix_search(log_probs, lengths, CtcBeamConfig(beam=1, token_beam=1, paths="best"))
    for (one,), (other,) in zip(found, expected, strict=True):
        assert one.tokens == other.tokens
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_a_beam_of_one_over_sums_is_not():
    """Where a token and a blank together are likelier than another token, the prefix stays as it is."""
    log_probs = torch.tensor([[[0.3, 0.6, 0.1], [0.3, 0.3, 0.4]]], dtype=torch.float64).log()
    ((best,),) = prefix_search(log_probs, torch.tensor([2]), CtcBeamConfig(beam=1))
    assert ids(best) == (1,) and best.score == pytest.approx(math.log(0.6 * 0.6))
    assert ids(greedy(log_probs, torch.tensor([2]))[0][0]) == (1, 2)


@pytest.mark.parametrize("beam", [2, 5])
def test_batched_is_one_by_one(beam):
    log_probs = random_log_probs(7, 30, 6, seed=5)
    lengths = torch.tensor([30, 1, 17, 0, 30, 8, 29])
    for blank_threshold in (1.0, 0.3):
        config = CtcBeamConfig(beam=beam, nbest=beam, token_beam=3, blank_threshold=blank_threshold)
        scorer = Bigram(6, seed=6, dtype=torch.float64)
        together = prefix_search(log_probs, lengths, config, scorer)
        for row, length in enumerate(lengths.tolist()):
            (alone,) = prefix_search(
                log_probs[row : row + 1, :length],
                lengths[row : row + 1],
                config,
                Bigram(6, seed=6, dtype=torch.float64),
            )
            assert [h.tokens for h in alone] == [h.tokens for h in together[row]]
            assert [h.score for h in alone] == pytest.approx([h.score for h in together[row]], abs=1e-9)


def test_padding_is_not_read():
    log_probs, lengths = random_log_probs(2, 9, 5, seed=7), torch.tensor([5, 9])
    expected = prefix_search(log_probs, lengths, CtcBeamConfig())
    log_probs[0, 5:] = torch.randn(4, 5) * 100
    assert prefix_search(log_probs, lengths, CtcBeamConfig()) == expected


@pytest.mark.parametrize("beam", [4, 200])
def test_likely_blanks_are_passed_over(beam):
    log_probs = random_log_probs(6, 6, 3, seed=8, scale=2.0)
    lengths = torch.tensor([6, 6, 6, 6, 5, 3])
    certain = log_probs.clone()
    certain[..., 1:][log_probs[..., 0].exp() > 0.5] = -math.inf
    assert 0.2 < (log_probs[..., 0].exp() > 0.5).float().mean() < 0.8
    found = prefix_search(log_probs, lengths, CtcBeamConfig(beam=beam, nbest=4, blank_threshold=0.5))
    expected = prefix_search(certain, lengths, CtcBeamConfig(beam=beam, nbest=4))
    for row, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert [ids(h) for h in one] == [ids(h) for h in other]
        assert [h.score for h in one] == pytest.approx([h.score for h in other], abs=1e-9)
        if beam == 200:
            assert_same(one, ranked(all_prefixes(certain[row, : lengths[row]])), 4)


def test_a_prefix_that_was_left_and_found_again_is_the_same():
    """Over long input, beams narrower than the space of prefixes never hold a prefix twice."""
    log_probs = random_log_probs(3, 60, 3, seed=9, scale=0.3)
    for beam in (3, 7, 12):
        config = CtcBeamConfig(beam=beam, nbest=beam)
        for nbest in prefix_search(log_probs, torch.tensor([60, 60, 60]), config):
            assert len({ids(h) for h in nbest}) == len(nbest) == beam
            assert [h.score for h in nbest] == sorted((h.score for h in nbest), reverse=True)


def test_times_are_those_of_the_best_path():
    path = [0, 2, 2, 0, 0, 1, 2, 0]
    log_probs = torch.full((1, 8, 3), -8.0)
    log_probs[0, range(8), path] = 0.0
    ((best,),) = prefix_search(log_probs.log_softmax(-1), torch.tensor([8]), CtcBeamConfig())
    assert [(t.id, t.start, t.end) for t in best.tokens] == [(2, 1, 3), (1, 5, 6), (2, 6, 7)]
    assert all(token.score == pytest.approx(0, abs=0.01) for token in best.tokens)


def test_nothing_to_search_in():
    config = CtcBeamConfig()
    assert prefix_search(torch.zeros(0, 3, 4), torch.zeros(0, dtype=torch.long), config) == []
    ((best,),) = prefix_search(torch.zeros(1, 0, 4), torch.zeros(1, dtype=torch.long), config)
    assert best.tokens == [] and best.score == 0
    silence = torch.tensor([0.0, -30.0, -30.0]).expand(1, 20, 3)
    ((best,),) = prefix_search(silence, torch.tensor([20]), config)
    assert best.tokens == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam": 0}, "beam must be at least 1, got 0"),
        ({"nbest": 9}, "nbest must be at most beam, got nbest=9, beam=8"),
        ({"token_beam": 0}, "token_beam must be at least 1"),
        ({"blank_threshold": 0.0}, r"blank_threshold must be in \(0, 1\], got 0.0"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        CtcBeamConfig(**settings)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ngram_model(tmp_path_factory.mktemp("arpa"))


@pytest.mark.parametrize("settings", ["look ahead", "blind", "words only"])
def test_words_of_a_lexicon_are_those_of_an_exhaustive_search(model, settings):
    log_probs = random_log_probs(4, 4, 4, seed=10)
    lengths = torch.tensor([4, 4, 1, 0])
    look_ahead = {"look_ahead": settings != "blind"}
    used = None if settings == "words only" else model
    words = WordSearch(vocabulary(), 4, "cpu", used, WordsConfig(scale=0.7, bonus=0.1, **look_ahead))
    config = CtcBeamConfig(beam=250, nbest=12, length_bonus=-0.2)
    for row, found in enumerate(prefix_search(log_probs, lengths, config, words=words)):
        prefixes = all_prefixes(log_probs[row, : lengths[row]])
        scores = {}
        for text, tokens in texts(4):
            if tokens in prefixes:
                grammar = 0.7 * text_score(text) if used else 0.0
                scores[text, tokens] = prefixes[tokens] + grammar - 0.2 * len(tokens) + 0.1 * len(text)
        expected = ranked(scores)[:12]
        assert [h.score for h in found] == pytest.approx([score for _, score in expected], abs=1e-5)
        for hypothesis in found:
            key = tuple(word.text for word in hypothesis.words), ids(hypothesis)
            assert hypothesis.score == pytest.approx(scores[key], abs=1e-5)


def test_a_separator_stands_between_words_but_not_before_the_first(model):
    """As in models of characters: symbol 3 is the space."""
    spellings = [(word, (3, *tokens)) for word, tokens in SPELLINGS[:4]]
    log_probs = random_log_probs(2, 5, 4, seed=11)
    words = WordSearch(vocabulary(spellings, space=3), 4, "cpu", model, WordsConfig(scale=1.0))
    found = prefix_search(log_probs, torch.tensor([5, 5]), CtcBeamConfig(beam=150, nbest=6), words=words)
    for row, nbest in enumerate(found):
        prefixes, scores = all_prefixes(log_probs[row]), {}
        for text, tokens in texts(6, spellings):
            for spelled in {tokens, tokens[1:]}:
                if spelled in prefixes:
                    scores[text, spelled] = prefixes[spelled] + text_score(text)
        expected = ranked(scores)[:6]
        assert [h.score for h in nbest] == pytest.approx([score for _, score in expected], abs=1e-5)
        for hypothesis in nbest:
            # The space belongs to no word.
            letters = {token.start for token in hypothesis.tokens if token.id != 3}
            assert {word.start for word in hypothesis.words} <= letters


def test_times_of_words():
    path = [0, 1, 2, 2, 0, 3, 0, 1, 1]
    log_probs = torch.full((1, 9, 4), -8.0)
    log_probs[0, range(9), path] = 0.0
    words = WordSearch(vocabulary([("yes", (1, 2)), ("no", (3, 1))]), 4, "cpu")
    search = CtcBeamConfig(beam=4)
    ((best,),) = prefix_search(log_probs.log_softmax(-1), torch.tensor([9]), search, words=words)
    assert [(w.text, w.start, w.end) for w in best.words] == [("yes", 1, 4), ("no", 5, 9)]
    assert all(word.score == pytest.approx(0, abs=0.01) for word in best.words)
    # The utterance ends within a word: those before it are kept.
    ((cut,),) = prefix_search(
        log_probs[:, :6].log_softmax(-1), torch.tensor([6]), CtcBeamConfig(beam=1), words=words
    )
    assert [w.text for w in cut.words] == ["yes"] and ids(cut) == (1, 2)


def test_what_a_configuration_names_is_fused_in(tmp_path, model):
    tokenizer = CharTokenizer(["<blk>", "<unk>", "▁", "A", "B", "C", "D"])
    (tmp_path / "words.arpa").write_text(ARPA)
    (tmp_path / "tokens.arpa").write_text(ARPA.replace("D", "▁"))
    (tmp_path / "lexicon.txt").write_text("A ▁ A\nB ▁ B\nC ▁ C D\n")
    log_probs = torch.randn(2, 12, 7, generator=torch.Generator().manual_seed(12)).log_softmax(-1)
    lengths = torch.tensor([12, 10])
    raw = {
        "beam": 12,
        "nbest": 3,
        "fusion": {"ngram": f"{tmp_path}/tokens.arpa", "ngram_scale": 0.3},
        "words": {"ngram": f"{tmp_path}/words.arpa", "lexicon": f"{tmp_path}/lexicon.txt", "scale": 0.6},
    }
    config = build(CtcBeamConfig, raw, "test")
    found = CtcBeam(config, LogProbs(), tokenizer, "cpu")(log_probs, lengths)
    scorer = Sum([(NgramScorer(read_arpa(tmp_path / "tokens.arpa"), tokenizer.tokens), 0.3)])
    words = Vocabulary(["", "A", "B", "C"], [(1, (2, 3)), (2, (2, 4)), (3, (2, 5, 6))], space=2)
    search = WordSearch(words, 7, "cpu", model, WordsConfig(scale=0.6))
    assert found == prefix_search(log_probs, lengths, config, scorer, search)
    assert all(len(nbest) == 3 and nbest[0].words for nbest in found)
    raw["words"] = {"lexicon": f"{tmp_path}/none.txt"}
    with pytest.raises(UserError, match=r"none\.txt: no such file"):
        CtcBeam(build(CtcBeamConfig, raw, "test"), LogProbs(), tokenizer, "cpu")


def pretend(part, mode):
    """Moves the tensors of an object to a pretended GPU."""
    for name, value in list(vars(part).items()):
        if isinstance(value, torch.Tensor):
            setattr(part, name, mode.from_tensor(value).to("cuda"))
    part.device = torch.device("cuda")
    return part


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_never_waits_for_the_gpu(model, fused):
    """On a pretended GPU there are no numbers to wait for, and nothing on the CPU to copy."""
    words = WordSearch(vocabulary(), 4, "cpu", model)
    scorer = NgramScorer(model, ["<blk>", "A", "B", "C"])
    with FakeTensorMode() as mode, torch.device("cuda"):
        pretend(words, mode)
        pretend(words.ngram, mode)
        frames = torch.zeros(2, 3, 4)
        parts = (pretend(scorer, mode), words) if fused else (None, None)
        search = PrefixSearch(CtcBeamConfig(nbest=2), *parts, frames)
        for number in range(3):
            step = search.step(
                frames[:, number], frames[:, 0, :2], torch.ones(2, 2, dtype=torch.long), number
            )
        scores, places = search.finish()
    assert {tensor.device.type for tensor in (*step, scores, places)} == {"cuda"}
    assert step.token.shape == (2, 8) and scores.shape == (2, 2)
