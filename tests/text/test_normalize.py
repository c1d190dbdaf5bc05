"""Text normalisation."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.text.normalize import ALPHABETS, STEPS, Normalizer, foreign, normalize


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Agent Logged off.", "en", "agent logged off"),
        ("  Don’t hang-up: it's the U.S. “call”!", "en", "don't hang up it's the u s call"),
        ("'quoted' words'", "en", "quoted words"),
        ("À l'heure exacte…", "fr", "à l'heure exacte"),
        ("l’audio", "it", "l'audio"),
        ("¿Buzón?", "es", "buzón"),
        ("Нажмите «решётку»", "ru", "нажмите решетку"),
        ("\ufeffone\u200b\u00a0two\tthree\n", None, "one two three"),
        ("press 1 #", "en", "press 1"),
        ("...", None, ""),
    ],
)
def test_examples(text, language, expected):
    assert normalize(text, language) == expected


def test_decomposed_and_composed_letters_give_the_same_text():
    assert normalize(unicodedata.normalize("NFD", "été")) == normalize("été") == "été"


@given(st.text(max_size=40))
def test_normal_form_is_stable(text):
    once = normalize(text)
    assert normalize(once) == once
    assert once == once.strip() and "  " not in once


def test_foreign_characters():
    assert foreign("press 1 now", "en") == {"1"}
    assert foreign("пин код", "ru") == set()
    assert foreign("voip код", "ru") == set("voip")
    with pytest.raises(ValueError, match="no alphabet for language 'xx'"):
        foreign("a", "xx")


def test_alphabets_are_in_normal_form():
    for language, letters in ALPHABETS.items():
        assert len(set(letters)) == len(letters)
        assert all(normalize(f"a{letter}a", language) == f"a{letter}a" for letter in letters)


@pytest.mark.parametrize(
    ("steps", "text", "expected"),
    [
        ([], "  As it\tIS ’…", "  As it\tIS ’…"),
        (["nfc"], "e\u0301  a", "é a"),
        (["nfkc"], "①ﬁ Ａ", "1fi A"),
        (["lower"], "ÀB ẞ", "àb ß"),
        (["upper"], "straße", "STRASSE"),
        (["tags"], "a <noise> b[laughter]c [[x]", "a b c [ "),
        (["apostrophes"], "don’t ‘go’", "don't 'go'"),
        (["punctuation"], "don’t ‘go’, “A-B”!", "don't go A B"),
        (["yo"], "Ёлка ещё", "Елка еще"),
        (["no_spaces"], " 今天 天气\u3000好 ", "今天天气好"),
        (["tags", "punctuation", "upper"], "so -- [um] it’s fine.", "SO IT'S FINE"),
        (["punctuation", "tags"], "a [um]", "a um"),
    ],
)
def test_steps(steps, text, expected):
    found = Normalizer(steps)(text)
    assert found == (" ".join(expected.split()) if steps else expected)


def test_every_step_stands_in_the_documentation_of_its_setting():
    from toolkit import config
    from toolkit.text.tokenizer import TokenizerConfig

    line = next(
        line for line in config.describe(TokenizerConfig()).splitlines() if line.startswith("normalize")
    )
    assert all(step in line for step in STEPS)


def test_a_step_that_does_not_exist():
    with pytest.raises(
        ValueError, match="normalize: found 'lowercase', expected steps among nfc, nfkc, lower"
    ):
        Normalizer(["nfc", "lowercase"])
