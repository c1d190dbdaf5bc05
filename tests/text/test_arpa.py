"""ARPA files: what is read and written, what is refused, and the probabilities of sentences."""

import gzip
import random
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.text.ngrams import arpa_text, random_model, sentence
from toolkit.errors import UserError
from toolkit.text.arpa import read_arpa, write_arpa
from toolkit.text.backoff import BackoffModel, evaluate

GOOD = """made by hand

\\data\\
ngram 1=5
ngram 2=3
ngram 3=1

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.5
-0.7\t</s>
-0.5\ta\t-0.25
-0.6\tb\t0.125

\\2-grams:
-0.3 <s> a -0.5
-0.4\ta b\t-0.125
-0.2\tb </s>

\\3-grams:
-0.1\t<s> a b

\\end\\
"""


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.arpa"
    path.write_text(GOOD)
    return read_arpa(path)


def test_by_hand(good):
    assert good.order == 3 and good.sizes == [5, 3, 1] and good.words == ["<unk>", "<s>", "</s>", "a", "b"]
    log_probs, known = good.sentence_log_probs([["a", "b"], ["b", "b", "c"], []])
    expected = [
        -0.3,
        -0.1,
        # "<s> a b" is listed, but nothing follows it: what "a b" and "b" say.
        -0.125 + -0.2,
        -0.5 + -0.6,
        0.125 + -0.6,
        0.125 + -1.0,
        # Nothing follows <unk>.
        -0.7,
        -0.5 + -0.7,
    ]
    assert log_probs == pytest.approx(expected, abs=1e-6)
    assert known.tolist() == [True, True, True, True, True, False, True, True]
    found = evaluate(good, iter([["a", "b"], ["b", "b", "c"], []]))
    assert found[:3] == (3, 5, 1) and found.log_prob == pytest.approx(
        sum(expected) - (0.125 + -1.0), abs=1e-5
    )
    assert found.perplexity == pytest.approx(10 ** (-found.log_prob / 7))
    with pytest.raises(UserError, match="text: found no sentences, expected some"):
        evaluate(good, [])


@given(
    st.integers(0, 999),
    st.integers(1, 4),
    st.lists(st.lists(st.sampled_from("abcx"), max_size=6), min_size=1),
)
def test_sentences_have_the_probabilities_of_the_definition(tmp_path_factory, seed, order, sentences):
    model = random_model(random.Random(seed), "abc", order)
    path = tmp_path_factory.mktemp("arpa") / "random.arpa"
    path.write_text(arpa_text(model))
    log_probs, known = read_arpa(path).sentence_log_probs(sentences)
    expected = []
    for words in sentences:
        expected += sentence(model, words)
    assert known.tolist() == [value is not None for value in expected]
    assert log_probs == pytest.approx([-99.0 if value is None else value for value in expected], abs=1e-5)


@pytest.mark.parametrize("name", ["copy.arpa", "copy.arpa.gz"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_round_trip(tmp_path, name, order):
    source, copy = tmp_path / "random.arpa", tmp_path / name
    source.write_text(arpa_text(random_model(random.Random(order), ["a", "ß", "▁кот", "d"], order)))
    model = read_arpa(source)
    write_arpa(copy, model)
    again = read_arpa(copy)
    assert again.words == model.words and again.sizes == model.sizes
    for field in ("keys", "log_probs", "backoffs"):
        assert np.array_equal(getattr(again, field), getattr(model, field)), field
    write_arpa(tmp_path / f"second-{name}", again)
    assert (tmp_path / f"second-{name}").read_bytes() == copy.read_bytes()


def test_line_ends_of_windows_and_minus_infinity(tmp_path):
    path = tmp_path / "windows.arpa"
    path.write_bytes(GOOD.replace("-99", "-inf").replace("\n", "\r\n").encode())
    model = read_arpa(path)
    assert model.log_probs[1] == -99 and model.words[-1] == "b"


def test_words_outside_a_vocabulary(tmp_path, good):
    assert read_arpa(good.source, ["a", "b", "c"]).words == good.words
    with pytest.raises(
        UserError, match="good.arpa:13: found 'b', which are no tokens of the model, expected"
    ):
        read_arpa(good.source, ["a"])
    with pytest.raises(UserError, match="good.arpa:12: found 'a', 'b', which are no tokens"):
        read_arpa(good.source, [])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("made by hand\n\n\\data\\", "", ":21: the file ends here, expected .data., with which an ARPA"),
        ("ngram 2=3", "ngram 2 = three", r":5: found 'ngram 2 = three', expected 'ngram 2=' and a number"),
        ("ngram 2=3\n", "", ":5: found 'ngram 3=1', expected 'ngram 2='"),
        ("ngram 2=3", "ngram 2=4", ":19: found 3 2-grams, expected 4 as .data. says"),
        ("ngram 2=3", "ngram 2=2", ":19: found 3 2-grams, expected 2"),
        ("\\2-grams:", "\\3-grams:", r":15: found .*3-grams:', expected .2-grams:"),
        ("ngram 3=1\n", "", r":19: found .*3-grams:', expected .end"),
        ("\\end\\", "", r":23: the file ends here, expected .end"),
        ("\n\\end\\\n", "", r":21: the file ends here, expected .end"),
        (
            "-0.4\ta b\t-0.125\n-0.2\tb </s>\n\n\\3-grams:\n-0.1\t<s> a b\n\n\\end\\\n",
            "",
            ":16: found 1 2-grams, expected 3",
        ),
        ("\n\\2-grams", "\\2-grams", r":14: found .*2-grams:', expected an empty line before it"),
        ("-0.5\ta", "-x\ta", r":12: found '-x.*', expected a logarithm, 1 words and at most a back-off"),
        ("-0.5\ta\t-0.25", "-0.5\ta\tlow", ":12: found .*low"),
        ("-0.5\ta", "0.5\ta", ":12: found 0.5, expected the logarithm of a probability"),
        ("-0.5\ta", "nan\ta", ":12: found nan, expected the logarithm of a probability"),
        ("\ta\t-0.25", "\ta\tinf", ":12: found inf, expected a back-off weight"),
        ("-0.4\ta b\t", "-0.4\ta\t", ":17: found '-0.125', which is no unigram"),
        ("-0.4\ta b\t", "-0.4\ta b a\t", ":17: found .*expected a logarithm, 2 words and at most"),
        ("-0.4\ta b", "-0.4\ta c", ":17: found 'c', which is no unigram"),
        ("-0.4\ta b", "-0.3\t<s> a", r":17: found an n-gram again .first on line 16.*, expected each once"),
        ("-0.6\tb", "-0.6\ta", r":13: found an n-gram again .first on line 12"),
        ("<s> a b\n", "b a b\n", ":21: found an n-gram whose first 2 words are not listed, expected them"),
        ("\ta\t-0.25", "\ta", ":12: found no back-off weight, expected one, as longer n-grams begin with"),
        ("a b\t-0.125\n-0.2\tb </s>", "a b\n-0.2\tb </s>", None),
        ("-99\t<s>\t-0.5", "-99\t<S>\t-0.5", "bad.arpa: found no <s> among 5 unigrams, expected it"),
        ("</s>", "</S>", "bad.arpa: found no </s> among 5 unigrams, expected it"),
    ],
)
def test_files_with_errors(tmp_path, old, new, message):
    path = tmp_path / "bad.arpa"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    if message is None:
        # Nothing follows "a b", so it needs no back-off weight.
        assert read_arpa(path).backoffs[6] == 0
        return
    with pytest.raises(UserError, match=message) as caught:
        read_arpa(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="none.arpa: no such file, expected an ARPA file"):
        read_arpa(tmp_path / "none.arpa")
    path = tmp_path / "cut.arpa.gz"
    path.write_bytes(gzip.compress(GOOD.encode())[:-12])
    with pytest.raises(UserError, match=r"cut.arpa.gz:\d+: damaged gzip file"):
        read_arpa(path)
    path.write_bytes(GOOD.encode())
    with pytest.raises(UserError, match="cut.arpa.gz:1: damaged gzip file"):
        read_arpa(path)
    path = tmp_path / "latin.arpa"
    path.write_bytes(GOOD.encode().replace(b"\tb", b"\t\xe9"))
    with pytest.raises(UserError, match="latin.arpa:13: found a word that is not UTF-8"):
        read_arpa(path)


def test_many_ngrams_are_read_in_little_time(tmp_path):
    """A file of 100 MB has some 3 million n-grams and takes 10 s; here are 100,000."""
    words = ["<s>", "</s>", *(f"w{index}" for index in range(998))]
    keys = np.concatenate([np.arange(1000), 1000 + np.arange(1_000_000)[::10]])
    values = np.full(len(keys), -1.0, dtype=np.float32)
    write_arpa(tmp_path / "large.arpa", BackoffModel(words, [1000, 100_000], keys, values, values * 0))
    start = time.perf_counter()
    model = read_arpa(tmp_path / "large.arpa")
    assert time.perf_counter() - start < 5
    assert np.array_equal(model.keys, keys)
