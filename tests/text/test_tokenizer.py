"""Tokenizers: round trips, files, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import UserError
from toolkit.text.tokenizer import (
    CharTokenizer,
    PhoneTokenizer,
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
    assert tokenizer.tokens[:2] == ["<blk>", "<unk>"] and tokenizer.joins
    assert len(set(tokenizer.tokens)) == len(tokenizer.tokens)


def test_text_comes_back(tokenizer):
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert all(1 < index < len(tokenizer.tokens) for index in ids)
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""


def test_what_is_unknown_is_left_out(tokenizer):
    ids = tokenizer.encode("cat漢cat")
    assert (
        1 in ids
        and tokenizer.unknown("cat 漢字cat漢") == ["漢", "字", "漢"]
        and not tokenizer.unknown("a cat")
    )
    assert tokenizer.decode(ids) == "catcat"
    assert tokenizer.decode([0, *tokenizer.encode("mat"), 0]) == "mat"


def test_files(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    lines = (tmp_path / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [f"{token} {index}" for index, token in enumerate(tokenizer.tokens)]
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer) and loaded.tokens == tokenizer.tokens
    assert loaded.encode("the mat") == tokenizer.encode("the mat")
    # Other programs leave no tokenizer.yaml.
    (tmp_path / "tokenizer.yaml").unlink()
    assert type(load_tokenizer(tmp_path)) is type(tokenizer)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_normalisation_is_learned_with_and_kept(kind, tmp_path):
    config = TokenizerConfig(kind, 25, normalize=["punctuation", "upper"])
    learned = learn_tokenizer(["The cat, sat.", "ON the MAT!"] * 5, config)
    learned.save(tmp_path)
    for tokenizer in (learned, load_tokenizer(tmp_path)):
        assert not {*"".join(tokenizer.tokens[2:])} & {*"abcdefghijklmnopqrstuvwxyz,.!"}
        ids = tokenizer.encode("“the cat”")
        assert ids == tokenizer.encode("THE CAT") and tokenizer.decode(ids) == "THE CAT"
        assert tokenizer.normalize("a, b") == "A B"


def test_a_tokenizer_is_taken_over_from_a_folder(tmp_path):
    learn_tokenizer(TEXTS, TokenizerConfig("bpe", 40, normalize=["lower"])).save(tmp_path)
    found = learn_tokenizer(iter(()), TokenizerConfig(folder=str(tmp_path)))
    assert isinstance(found, SentencePieceTokenizer) and len(found.tokens) == 40
    assert found.normalize.steps == ["lower"]


LEXICON = "CAT K AE T\nCAT K AH T\n\nA AH\nSAT S AE T\n"


@pytest.fixture
def lexicon(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text(LEXICON)
    return TokenizerConfig("phone", lexicon=str(path), normalize=["upper"])


def test_phones(lexicon, tmp_path):
    learned = learn_tokenizer(["a cat", "dog"], lexicon)
    learned.save(tmp_path / "model")
    for tokenizer in (learned, load_tokenizer(tmp_path / "model")):
        assert isinstance(tokenizer, PhoneTokenizer)
        assert tokenizer.tokens == ["<blk>", "<unk>", "AE", "AH", "K", "S", "T"]
        assert tokenizer.encode("a cat dog") == [3, 4, 2, 6, 1] and tokenizer.encode(" ") == []
        assert tokenizer.decode([0, 3, 1, 4]) == "AH K" and not tokenizer.joins
        assert tokenizer.unknown("a dog, cat") == ["DOG,"]
        assert tokenizer.lexicon.pronunciations["CAT"] == [("K", "AE", "T"), ("K", "AH", "T")]
    (tmp_path / "model" / "lexicon.txt").write_text("CAT K EH T\n")
    with pytest.raises(UserError, match="lexicon.txt:1: found 'EH', which is no token of the model"):
        load_tokenizer(tmp_path / "model")


@pytest.mark.parametrize("word", ["<UNK>", "<unk>", "<SPOKEN_NOISE>"])
def test_unknown_words_are_pronounced_as_the_lexicon_says(lexicon, word):
    with open(lexicon.lexicon, "a") as file:
        file.write(f"{word} SPN\n")
    tokenizer = learn_tokenizer(["cat"], lexicon)
    assert tokenizer.decode(tokenizer.encode("dog a")) == "SPN AH"


def test_words_that_the_lexicon_lacks(lexicon):
    with pytest.raises(
        UserError, match="lexicon.txt: found no word of the training transcripts, such as 'DOG', 'ÖL'"
    ):
        learn_tokenizer(["dog öl", "dog"], lexicon)
    with pytest.raises(UserError, match="data.train: found no text"):
        learn_tokenizer(["  "], lexicon)


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
        (
            "tokenizer.yaml",
            "type: sentencepiece",
            "tokenizer.model: no such file, expected a sentencepiece model",
        ),
        ("tokenizer.yaml", "type: chars", "tokenizer.yaml: type: found 'chars', expected one of 'char', "),
        (
            "tokenizer.yaml",
            "type: char\nnormalize: [low]",
            "tokenizer.yaml: top level: normalize: found 'low'",
        ),
        ("tokenizer.yaml", "normalize: []", "tokenizer.yaml: type is missing"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


def test_no_files(tmp_path):
    with pytest.raises(UserError, match="tokens.txt: no such file, expected the tokens of a recogniser"):
        load_tokenizer(tmp_path)
