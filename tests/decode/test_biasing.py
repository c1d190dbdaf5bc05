"""Bonuses of phrases against a scalar walk of the definition, and against totals of icefall's context graph."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.scorers import walk, walk_together
from toolkit.decode.biasing import BiasingScorer
from toolkit.decode.scorer import select
from toolkit.errors import UserError
from toolkit.text.phrases import Phrase, read_phrases
from toolkit.text.tokenizer import CharTokenizer

WORDS = "S HE SHE SHELL HIS HERS HELLO THIS THEM".split()
TOTALS = {
    1.0: {
        "HEHERSHE": 7,
        "HERSHE": 5,
        "HISHE": 5,
        "SHED": 3,
        "SHELF": 3,
        "HELL": 2,
        "HELLO": 2,
        "DHRHISQ": 3,
        "THEN": 2,
    },
    # A phrase is worth 5, however long.
    None: {
        "HEHERSHE": 20,
        "HERSHE": 15,
        "HISHE": 10.84,
        "SHED": 10,
        "SHELF": 10,
        "HELL": 5,
        "HELLO": 5,
        "DHRHISQ": 5.84,
        "THEN": 5,
    },
}
SYMBOLS = st.integers(1, 3)
PHRASES = st.lists(
    st.builds(Phrase, st.lists(SYMBOLS, min_size=1, max_size=5), st.sampled_from([0.5, 1.0, 2.0, -1.0])),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("score", TOTALS)
def test_totals_are_those_of_icefall(score):
    phrases = [Phrase([ord(letter) for letter in word], score or round(5 / len(word), 2)) for word in WORDS]
    scorer = BiasingScorer(phrases, 128)
    for text, expected in TOTALS[score].items():
        scores, final = walk(scorer, [ord(letter) for letter in text])
        assert sum(scores) + final == pytest.approx(expected, abs=1e-4), text


def scalar_walk(phrases, tokens):
    """Scores by the definition: compares the tokens since the last whole phrase with all beginnings of phrases."""
    whole = {tuple(phrase.tokens) for phrase in phrases}
    score_of = {}
    for phrase in phrases:
        for length in range(1, len(phrase.tokens) + 1):
            begin = tuple(phrase.tokens[:length])
            score_of[begin] = max(score_of.get(begin, phrase.score), phrase.score)

    def worth(begin):
        return sum(score_of[begin[:length]] for length in range(1, len(begin) + 1))

    def longest_suffix(history, among):
        return next((history[k:] for k in range(len(history)) if history[k:] in among), ())

    state, scores = (), []
    for token in tokens:
        reached = longest_suffix((*state, token), score_of)
        found = longest_suffix(reached, whole)
        scores.append(worth(found or reached) - worth(state))
        state = () if found else reached
    return scores, -worth(state)


@given(PHRASES, st.lists(st.lists(SYMBOLS, max_size=12), min_size=1, max_size=4))
def test_scores_are_those_of_the_definition(phrases, hypotheses):
    scorer = BiasingScorer(phrases, 5)
    found, finals = walk_together(scorer, hypotheses)
    for tokens, scores, final in zip(hypotheses, found, finals, strict=True):
        expected, expected_final = scalar_walk(phrases, tokens)
        assert scores == pytest.approx(expected, abs=1e-5)
        assert final == pytest.approx(expected_final, abs=1e-5)
        assert (scores, final) == walk(scorer, tokens)


@given(PHRASES)
def test_every_score_is_what_looking_up_gives(phrases):
    """All scores of a state at once, against the search that finds its next state (and scores on GPUs)."""
    scorer = BiasingScorer(phrases, 5)
    states = torch.arange(len(scorer.worth))
    scores = scorer.scores((states,))
    targets = scorer._targets(states[:, None], torch.arange(5))
    expected = scorer.gains[targets] - scorer.worth[:, None]
    assert torch.equal(scores[:, 1:], expected[:, 1:]) and not scores[:, 0].any()


@given(PHRASES, st.lists(SYMBOLS, max_size=12))
def test_what_is_left_in_the_end_is_that_of_whole_phrases(phrases, tokens):
    scores, final = walk(BiasingScorer(phrases, 5), tokens)
    if not any(
        tokens[k : k + len(phrase.tokens)] == phrase.tokens for phrase in phrases for k in range(len(tokens))
    ):
        assert sum(scores) + final == pytest.approx(0, abs=1e-5)


def test_states_can_be_picked():
    scorer = BiasingScorer([Phrase([1, 2], 1.0)], 4)
    state = scorer.advance(scorer.start(2), torch.tensor([1, 3]))
    picked = select(state, torch.tensor([1, 0, 0]))
    assert scorer.scores(picked)[:, 2].tolist() == [0.0, 1.0, 1.0]
    assert scorer.scores(picked)[:, 3].tolist() == [0.0, -1.0, -1.0]
    assert scorer.final(picked).tolist() == [0.0, -1.0, -1.0]


@pytest.mark.parametrize("phrases", [[], [Phrase([], 1.0)], [Phrase([0], 1.0)], [Phrase([5], 1.0)]], ids=repr)
def test_impossible_phrases(phrases):
    with pytest.raises(ValueError, match="expected phrases of tokens from 1 to 4"):
        BiasingScorer(phrases, 5)


TOKENIZER = CharTokenizer(["<blk>", "<unk>", "▁", "a", "b"])


def test_lists_of_phrases(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("ab a\n\nb\t3.5\na  b\t-2\n")
    expected = [Phrase([3, 4, 2, 3], 1.5), Phrase([4], 3.5), Phrase([3, 2, 4], -2.0)]
    assert read_phrases(path, TOKENIZER, 1.5) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ab\nax\n", "names.txt:2: found 'ax', expected no 'x', which the model lacks"),
        ("x\nab\ny\n", r"names.txt:1: found 'x' .2 such lines., expected no 'x'"),
        ("ab\tmuch\n", "names.txt:1: found 'much' after the tab, expected a score other than 0"),
        ("ab\t0\n", "names.txt:1: found '0' after the tab"),
        ("ab\tinf\n", "names.txt:1: found 'inf' after the tab"),
        ("ab\t\n", "names.txt:1: found '' after the tab"),
        ("\t2\n", "names.txt:1: found '', expected a phrase of words"),
        ("\n\n", "names.txt: found no phrase, expected one a line"),
        (b"\xe9", "names.txt: not a UTF-8 text file, expected a phrase a line"),
        (None, "names.txt: no such file, expected a phrase a line"),
    ],
)
def test_lists_that_are_none(tmp_path, content, message):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_phrases(path, TOKENIZER, 1.0)
