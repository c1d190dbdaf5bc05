"""Tokenizers: round trips, files, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import UserError
from toolkit.text.tokenizer import (
    CharTokenizer,
    SentencePieceTokenizer,
    TokenizerConfig,
    learn_tokenizer,
    load_tokenizer,
)

TEXTS = ["the cat sat on the mat", "ça va où", "кот", "a rat, a bat"] * 5


@pytest.fixture(scope="module", params=[("char", 3), ("bpe", 40), ("unigram", 24)], ids=lambda p: p[0])
def tokenizer(request):
    return learn_tokenizer(iter(TEXTS), TokenizerConfig(*request.param))


def test_first_symbols(tokenizer):
    assert tokenizer.tokens[:2] == ["<blk>", "<unk>"]
    assert len(set(tokenizer.tokens)) == len(tokenizer.tokens)


def test_text_comes_back(tokenizer):
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert all(1 < index < len(tokenizer.tokens) for index in ids)
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""


def test_what_is_unknown_is_left_out(tokenizer):
    ids = tokenizer.encode("cat漢cat")
    assert 1 in ids
    assert tokenizer.decode(ids) == "catcat"
    assert tokenizer.decode([0, *tokenizer.encode("mat"), 0]) == "mat"


def test_files(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    lines = (tmp_path / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [f"{token} {index}" for index, token in enumerate(tokenizer.tokens)]
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer) and loaded.tokens == tokenizer.tokens
    assert loaded.encode("the mat") == tokenizer.encode("the mat")


@given(st.lists(st.text(max_size=20), min_size=1))
def test_characters_of_any_text_survive_a_file(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("tokens")
    try:
        CharTokenizer.learn(texts).save(folder)
    except UserError:
        assert not "".join(texts).replace("▁", "").strip()
        return
    loaded = load_tokenizer(folder)
    for text in texts:
        assert 1 not in loaded.encode(text)
        assert loaded.decode(loaded.encode(text)) == " ".join(text.replace("▁", " ").split())


def test_white_space_of_any_kind_parts_words():
    tokenizer = CharTokenizer.learn(["a\tb\u00a0c\n"])
    assert tokenizer.tokens == ["<blk>", "<unk>", "▁", "a", "b", "c"]
    assert tokenizer.encode(" a \u2028 b ") == [3, 2, 4]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TokenizerConfig("bpe", 5000), "tokenizer.vocab_size: found 5000: Vocabulary size too high .*<= "),
        (TokenizerConfig("unigram", 5000), "tokenizer.vocab_size: found 5000: Vocabulary size too high"),
        (TokenizerConfig("bpe", 5), "tokenizer.vocab_size: found 5: Vocabulary size is smaller"),
    ],
)
def test_a_vocabulary_of_impossible_size(config, message):
    with pytest.raises(UserError, match=message):
        SentencePieceTokenizer.learn(TEXTS, config)


@pytest.mark.parametrize("kind", ["char", "bpe", "unigram"])
@pytest.mark.parametrize(
    "error", [UserError("cuts.jsonl:7: not JSON"), OSError(5, "read error"), KeyboardInterrupt()]
)
def test_what_goes_wrong_with_the_texts_is_told_as_it_is(kind, error):
    def texts():
        yield from TEXTS
        raise error

    with pytest.raises(type(error)) as caught:
        learn_tokenizer(texts(), TokenizerConfig(kind, 40))
    assert caught.value is error


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_of_many_texts_always_the_same_are_drawn(kind, monkeypatch):
    config = TokenizerConfig(kind, 24)
    whole = SentencePieceTokenizer.learn(TEXTS * 40, config)
    monkeypatch.setattr("toolkit.text.tokenizer.MOST_TEXTS", 150)
    one, two = (SentencePieceTokenizer.learn(TEXTS * 40, config) for _ in range(2))
    assert one.model == two.model != whole.model


@pytest.mark.parametrize("kind", ["char", "bpe", "unigram"])
def test_no_text(kind):
    with pytest.raises(UserError, match="transcripts"):
        learn_tokenizer([], TokenizerConfig(kind, 40))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "tokens.txt",
            "<blk> 0\n<unk> 1\na 3\n",
            "tokens.txt:3: found 'a 3', expected a symbol and the id 2",
        ),
        ("tokens.txt", "<blk> 0\n\n", "tokens.txt:2: found '', expected a symbol and the id 1"),
        ("tokens.txt", "<blk> 0\n 1\n", "tokens.txt:2: found ' 1'"),
        ("tokenizer.model", "", "tokenizer.model: empty or damaged, expected a sentencepiece model"),
        ("tokenizer.model", "what is this?", "tokenizer.model: empty or damaged"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


def test_no_files(tmp_path):
    with pytest.raises(UserError, match="tokens.txt: no such file, expected the tokens of a recogniser"):
        load_tokenizer(tmp_path)
