"""WER and CER against jiwer and kaldialign, the bootstrap against kaldialign's."""

import random
from types import ModuleType

import jiwer
import numpy as np
import pytest

from toolkit.score import ScoreError, bootstrap, wer

WORDS = ["a", "ab", "abc", "the", "that", "hat", "l'hat", "été", "и", "да"]


@pytest.fixture
def kaldialign() -> ModuleType:
    return pytest.importorskip("kaldialign", reason="kaldialign is not installed (pip install kaldialign)")


def random_texts(rng: random.Random, number: int) -> tuple[dict[str, str], dict[str, str]]:
    """References and hypotheses with repeated words, empty texts on either side and pure insertions."""
    refs, hyps = {}, {}
    for index in range(number):
        ref = [rng.choice(WORDS) for _ in range(rng.randrange(9))]
        hyp = [word if rng.random() < 0.7 else rng.choice(WORDS) for word in ref if rng.random() < 0.85]
        hyp += [rng.choice(WORDS) for _ in range(rng.randrange(3))]
        refs[f"utt{index}"], hyps[f"utt{index}"] = " ".join(ref), " ".join(hyp if rng.random() < 0.85 else [])
    refs["utt0"] = refs["utt0"] or "the"  # a reference without any word has no rate
    return refs, hyps


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_rates_equal_jiwer(start: int) -> None:
    for seed in range(start, start + 50):
        refs, hyps = random_texts(random.Random(seed), 1 + seed % 20)
        result = wer.score(refs, hyps, replications=1)
        words = jiwer.process_words(list(refs.values()), list(hyps.values()))
        characters = jiwer.process_characters(list(refs.values()), list(hyps.values()))
        assert result.wer == pytest.approx(words.wer, abs=1e-6)
        assert result.cer == pytest.approx(characters.cer, abs=1e-6)
        for counts, output in ((result.words, words), (result.characters, characters)):
            expected = (output.hits, output.substitutions, output.deletions, output.insertions)
            assert (counts.hits, counts.substitutions, counts.deletions, counts.insertions) == expected


def test_errors_of_each_utterance_equal_kaldialign(kaldialign: ModuleType) -> None:
    refs, hyps = random_texts(random.Random(1), 200)
    for utterance in wer.score(refs, hyps, replications=1).utterances:
        expected = kaldialign.edit_distance(utterance.ref, utterance.hyp)
        assert utterance.words.errors == expected["total"]
        assert utterance.words.length == expected["ref_len"]


def test_alignment_spells_out_both_sides() -> None:
    refs, hyps = random_texts(random.Random(2), 100)
    for utterance in wer.score(refs, hyps, replications=1).utterances:
        columns = list(utterance.columns())
        assert [ref for ref, _, op in columns if op != "I"] == refs[utterance.id].split()
        assert [hyp for _, hyp, op in columns if op != "D"] == hyps[utterance.id].split()
        assert all((ref == hyp) == (op == "C") for ref, hyp, op in columns)


def test_bootstrap_interval_agrees_with_kaldialign(kaldialign: ModuleType) -> None:
    refs, hyps = random_texts(random.Random(3), 400)
    result = wer.score(refs, hyps, replications=10000)
    sides = [[text.split() for text in side.values()] for side in (refs, hyps)]
    expected = kaldialign.bootstrap_wer_ci(*sides, replications=10000)
    low, high = result.wer_interval
    # kaldialign gives mean -/+ 1.96 deviations of the draws, not percentiles: close for 400 utterances.
    assert low == pytest.approx(expected["ci95min"], rel=0.01)
    assert high == pytest.approx(expected["ci95max"], rel=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_probability_of_improvement_agrees_with_kaldialign(kaldialign: ModuleType, seed: int) -> None:
    refs, hyps = random_texts(random.Random(seed), 150)
    rng = random.Random(seed + 100)
    others = {
        name: " ".join(w for w in text.split() if rng.random() > 0.02 * seed) for name, text in hyps.items()
    }
    comparison = wer.compare(wer.score(refs, others), wer.score(refs, hyps))
    sides = [[text.split() for text in side.values()] for side in (refs, hyps, others)]
    expected = kaldialign.bootstrap_wer_ci(*sides, replications=10000)["p_s2_improv_over_s1"]
    assert comparison.probability_of_improvement == pytest.approx(expected, abs=0.03)


def test_paired_bootstrap_is_symmetric_and_never_zero() -> None:
    refs = {f"utt{i}": "one two three four five" for i in range(50)}
    good = {name: "one two three four six" for name in refs}
    bad = {name: "one two three seven six" for name in refs}
    better = wer.compare(wer.score(refs, good, replications=999), wer.score(refs, bad, replications=999))
    worse = wer.compare(wer.score(refs, bad, replications=999), wer.score(refs, good, replications=999))
    same = wer.compare(wer.score(refs, bad, replications=999), wer.score(refs, bad, replications=999))
    assert better.difference == pytest.approx(-0.2) and worse.difference == pytest.approx(0.2)
    assert (better.low, better.high) == pytest.approx((-0.2, -0.2))
    assert better.p_one_sided == pytest.approx(0.001) and better.p_two_sided == pytest.approx(0.002)
    assert worse.p_one_sided == 1 and worse.p_two_sided == pytest.approx(0.002)
    assert same.p_one_sided == same.p_two_sided == 1 and same.probability_of_improvement == 0


def test_pooled_rows_draw_the_same_distribution_as_plain_resampling() -> None:
    rows = np.array([[1, 4], [0, 3], [0, 3], [2, 2], [5, 9], [0, 3]])
    sums = bootstrap.resampled_sums(rows, 20000, seed=0)
    plain = rows[np.random.default_rng(1).integers(0, len(rows), (20000, len(rows)))].sum(axis=1)
    np.testing.assert_allclose(sums.mean(axis=0), plain.mean(axis=0), rtol=0.01)
    np.testing.assert_allclose(np.cov(sums.T), np.cov(plain.T), rtol=0.05)
    np.testing.assert_array_equal(sums, bootstrap.resampled_sums(rows, 20000, seed=0))


def test_an_empty_reference_adds_its_insertions_only() -> None:
    result = wer.score({"a": "x y", "b": ""}, {"a": "x y", "b": "noise noise"}, {"a": "anna", "b": "ben"})
    assert result.wer == 1.0 and result.words.insertions == 2 and result.sentence_errors == 1
    speakers = {row["speaker"]: row["wer"] for row in result.to_dict()["speakers"]}
    assert speakers == {"anna": 0.0, "ben": None}


def test_frequent_errors_and_details() -> None:
    refs = {"a": "the cat sat", "b": "the cat", "c": "the end"}
    result = wer.score(refs, {"a": "the bat sat down", "b": "the bat", "c": "end"})
    assert result.confusions("S", 5) == [("cat", "bat", 2)]
    assert result.to_dict()["top_deletions"] == [("the", 1)]
    assert list(result.details())[:4] == [
        "a ref   the  cat  sat  ***",
        "a hyp   the  bat  sat  down",
        "a op    C    S    C    I",
        "a #csid 2 1 1 0",
    ]


def test_references_without_words_are_refused() -> None:
    with pytest.raises(ScoreError, match="no word in the 2 references"):
        wer.score({"a": "", "b": " "}, {"a": "x", "b": ""})
    with pytest.raises(ScoreError, match="'b' without a hypothesis"):
        wer.score({"a": "x", "b": "x"}, {"a": "x"})
