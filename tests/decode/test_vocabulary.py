"""Words and their spellings: what is read, refused, found again in tokens."""

import pytest

from tests.decode.grammar import vocabulary
from toolkit.decode.hypothesis import Token
from toolkit.decode.vocabulary import load_vocabulary
from toolkit.errors import UserError
from toolkit.text.arpa import read_arpa
from toolkit.text.lexicon import Lexicon
from toolkit.text.tokenizer import CharTokenizer, PhoneTokenizer, TokenizerConfig, learn_tokenizer

TOKENIZER = CharTokenizer(["<blk>", "<unk>", "▁", "a", "b"])
ARPA = "\\data\\\nngram 1=5\n\n\\1-grams:\n-99 <s>\n-1 </s>\n-1 <unk>\n-1 ab\n-1 xyz\n\n\\end\\\n"


def test_a_lexicon_is_read_as_it_stands(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text("ab ▁ a b\nbb ▁ b b\nab ▁ b\n")
    found = load_vocabulary(path, None, TOKENIZER)
    assert found.words == ["", "ab", "bb"] and found.separator == 2
    assert sorted(found.spellings) == [(1, (2, 3, 4)), (1, (2, 4)), (2, (2, 4, 4))]
    path.write_text("ab a b ▁\n")
    assert load_vocabulary(path, None, TOKENIZER).separator is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ab ▁ a b\nba b a\n", "ba: found no ▁ at its beginning, but before other words"),
        ("ba b a\nab ▁ a b\n", "ba: found no ▁ at its beginning"),
        ("ab ▁\n", "ab: found ▁ alone or twice"),
        ("ab ▁ a ▁ b\n", "ab: found ▁ alone or twice"),
        ("ab a c\n", ":1: found 'c', which is no token of the model"),
    ],
)
def test_lexicons_that_do_not_fit(tmp_path, text, message):
    path = tmp_path / "lexicon.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_vocabulary(path, None, TOKENIZER)
    assert str(caught.value).startswith(str(path))


def test_words_of_an_ngram_model_are_spelled_by_the_tokenizer(tmp_path):
    path = tmp_path / "words.arpa"
    path.write_text(ARPA)
    model = read_arpa(path)
    found = load_vocabulary(None, model, TOKENIZER)
    assert (found.words, found.spellings, found.separator) == (["", "ab"], [(1, (2, 3, 4))], 2)
    pieces = learn_tokenizer(["ab ba abba", "xyz ab"] * 9, TokenizerConfig("bpe", 12))
    found = load_vocabulary(None, model, pieces)
    assert found.words == ["", "ab", "xyz"] and found.separator is None
    assert [tokens for _, tokens in found.spellings] == [tuple(pieces.encode(w)) for w in ("ab", "xyz")]
    with pytest.raises(UserError, match="found no word that the model's tokens can spell, such as 'xyz'"):
        load_vocabulary(None, model, CharTokenizer(["<blk>", "<unk>", "▁", "q"]))


def test_a_model_of_phones_knows_all_pronunciations(tmp_path):
    path = tmp_path / "words.arpa"
    path.write_text(ARPA)
    lexicon = Lexicon({"ab": [("A", "B"), ("B",)], "ba": [("B", "A")]})
    tokenizer = PhoneTokenizer(["<blk>", "<unk>", "A", "B"], lexicon)
    found = load_vocabulary(None, read_arpa(path), tokenizer)
    assert (found.words, found.spellings, found.separator) == (["", "ab"], [(1, (2, 3)), (1, (3,))], None)


@pytest.mark.parametrize(
    ("tokens", "words", "expected"),
    [
        ((1, 2, 2), "AD", [("A", 1), ("D", 2)]),  # and an unfinished word
        ((1, 2), "B", [("B", 2)]),
        ((1, 2), "AC", [("A", 1), ("C", 2)]),
        ((1, 2, 1), "BA", [("B", 2), ("A", 3)]),
        ((3, 1, 1), "DA", [("D", 2), ("A", 3)]),
        ((2, 3, 1), "DD", [("D", 1), ("D", 3)]),
        ((1, 3), "AD", [("A", 1)]),
        ((), "", []),
        ((3,), "D", []),
    ],
)
def test_which_tokens_are_which_words(tokens, words, expected):
    known = vocabulary()
    found = known.ends(tokens, [known.words.index(word) for word in words])
    assert [(known.words[word], end) for word, end in found] == expected


def test_the_first_word_comes_without_the_separator():
    known = vocabulary([("ab", (2, 3, 4)), ("b", (2, 4))], space=2)
    assert known.ends((4, 2, 3, 4), [2, 1]) == [(2, 1), (1, 4)]
    assert known.ends((2, 4, 2, 3, 4), [2, 1]) == [(2, 2), (1, 5)]
    tokens = [Token(2, 0, 1, -1.0), Token(4, 1, 3, -2.0), Token(2, 4, 5, 0.0), Token(4, 7, 8, -0.5)]
    found = known.timed(tokens, [(2, 2), (2, 4)])
    assert [(w.text, w.start, w.end, w.score) for w in found] == [("b", 1, 3, -2.0), ("b", 7, 8, -0.5)]
