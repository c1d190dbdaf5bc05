"""Estimated n-gram models: against the equations over dictionaries, and what must hold of any model."""

import itertools
import random
from collections import Counter, defaultdict

import pytest

from toolkit.errors import UserError
from toolkit.text.arpa import read_arpa, write_arpa
from toolkit.text.backoff import evaluate
from toolkit.text.ngram import FALLBACK, estimate

RANDOM = random.Random(0)
WORDS = [f"w{index}" for index in range(30)]


def chain(length, size=30):
    """Words each of which depends on the two before."""
    places = RANDOM.choices(range(size), k=2)
    while len(places) < length:
        following = (7 * places[-1] + 3 * (places[-2] % 2) + RANDOM.choice([0, 0, 0, 1])) % size
        places.append(following if RANDOM.random() < 0.9 else 0)
    return [WORDS[place] for place in places[:length]]


TEXT = [chain(RANDOM.randrange(12)) for _ in range(400)]
HELD_OUT = [chain(RANDOM.randrange(12)) for _ in range(100)]


class Reference:
    """Interpolated modified Kneser-Ney smoothing as it is written down, word by word."""

    def __init__(self, text, order, discounts, threshold=0):
        self.occurrences = Counter()
        before = defaultdict(set)
        for words in text:
            words = ["<s>", *words, "</s>"]
            for length in range(1, order + 1):
                for start in range(len(words) - length + 1):
                    gram = tuple(words[start : start + length])
                    self.occurrences[gram] += 1
                    if start:
                        before[gram].add(words[start - 1])
        self.counts = {
            gram: count if len(gram) == order or gram[0] == "<s>" else len(before[gram])
            for gram, count in self.occurrences.items()
        }
        self.counts["<s>",] = 0
        self.order, self.discounts = order, discounts
        self.kept = {g for g, count in self.occurrences.items() if len(g) < 3 or count > threshold}
        self.vocabulary = {gram[0] for gram in self.counts if len(gram) == 1} | {"<unk>"} - {"<s>"}
        self.following = defaultdict(list)
        for gram, count in self.counts.items():
            self.following[gram[:-1]].append((gram, count))

    def discount(self, gram):
        count = self.counts.get(gram, 0)
        return self.discounts[len(gram) - 1][min(count, 3) - 1] if count else 0.0

    def prob(self, word, history):
        """P(word | history), history a tuple of at most order - 1 words."""
        lower = self.prob(word, history[1:]) if history else 1 / (len(self.vocabulary) - 1)
        following = self.following.get(history)
        if following is None:
            return lower
        total = sum(count for _, count in following)
        saved = sum(self.discount(gram) if gram in self.kept else count for gram, count in following)
        gram = (*history, word)
        own = self.counts.get(gram, 0) - self.discount(gram) if gram in self.kept else 0.0
        return own / total + saved / total * lower


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("threshold", [0, 1])
def test_probabilities_are_those_of_the_equations(order, threshold):
    prune = [0, 0, threshold]
    found = estimate(TEXT, order, prune=prune)
    reference = Reference(TEXT, order, found.discounts, threshold)
    assert set(found.model.words) == reference.vocabulary | {"<s>"}
    expected = []
    for words in HELD_OUT:
        words = ["<s>", *words, "</s>"]
        for place in range(1, len(words)):
            history = tuple(words[max(0, place - order + 1) : place])
            expected.append(reference.prob(words[place], history))
    log_probs, _ = found.model.sentence_log_probs(HELD_OUT)
    assert 10.0**log_probs == pytest.approx(expected, rel=1e-5)
    listed = {size: sum(len(gram) == size for gram in reference.kept) for size in range(1, order + 1)}
    # <unk> is listed, too.
    assert found.model.sizes == [listed[1] + 1, *(listed[size] for size in range(2, order + 1))]


def test_discounts_are_those_of_counts_of_counts():
    found = estimate(TEXT, 3)
    assert 1 in found.fallbacks and 3 not in found.fallbacks and found.discounts[0] == FALLBACK
    reference = Reference(TEXT, 3, found.discounts)
    counts = Counter(reference.counts[gram] for gram in found_grams(found.model, 3))
    n1, n2, n3, n4 = (counts[count] for count in (1, 2, 3, 4))
    share = n1 / (n1 + 2 * n2)
    expected = (1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3)
    assert found.discounts[2] == pytest.approx(expected)
    assert 0 < expected[0] < expected[1] < expected[2] < 3


def found_grams(model, order):
    """The n-grams of the highest order, as tuples of words."""
    keys, size = model.keys[-model.sizes[-1] :], len(model.words)
    for key in keys.tolist():
        gram = []
        while True:
            node, word = divmod(key, size)
            gram.append(model.words[word])
            if not node:
                break
            key = int(model.keys[node - 1])
        assert len(gram) == order
        yield tuple(reversed(gram))


def test_by_hand():
    """Two sentences, "a b" and "a", bigrams; too little text for discounts, so D1 = 1/2 and D2 = 1."""
    found = estimate([["a", "b"], ["a"]], 2)
    assert found.fallbacks == [1, 2] and (found.num_sentences, found.num_words) == (2, 3)
    # Words before: of a <s>; of b a; of </s> b and a. So 1 + 1 + 2 = 4, less 1/2 + 1/2 + 1 = 2, spread over four words.
    low = {"a": 0.5 / 4 + 0.5 / 4, "b": 0.5 / 4 + 0.5 / 4, "</s>": 1 / 4 + 0.5 / 4, "<unk>": 0.5 / 4}
    # a follows <s> twice; b and </s> follow a once each; </s> follows b.
    expected = {
        ("<s>", "a"): (2 - 1) / 2 + 1 / 2 * low["a"],
        ("a", "b"): 0.5 / 2 + 1 / 2 * low["b"],
        ("a", "</s>"): 0.5 / 2 + 1 / 2 * low["</s>"],
        ("b", "</s>"): 0.5 / 1 + 0.5 / 1 * low["</s>"],
    }
    log_probs, _ = found.model.sentence_log_probs([["a", "b"], ["a"], ["c"]])
    assert 10.0**log_probs == pytest.approx(
        [
            expected["<s>", "a"],
            expected["a", "b"],
            expected["b", "</s>"],
            expected["<s>", "a"],
            expected["a", "</s>"],
            1 / 2 * low["<unk>"],
            low["</s>"],
        ]
    )


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("prune", [[], [0, 1]])
def test_probabilities_of_every_context_sum_to_one(order, prune):
    text = TEXT[:60]
    model = estimate(text, order, prune=prune).model
    words = [word for word in model.words if word not in ("<s>", "</s>")]
    contexts = {()} | {
        tuple(sentence[start : start + length])
        for sentence in text[:20]
        for length in range(1, order)
        for start in range(len(sentence) - length + 1)
    }
    contexts |= set(itertools.product(["w1", "<unk>"], repeat=min(order, 2)))
    for context in contexts:
        ends = [[*context, word] for word in words]
        log_probs, _ = model.sentence_log_probs([*ends, context])
        # The last word of each, and the end of the sentence right after the context.
        places = [(len(context) + 2) * (index + 1) - 2 for index in range(len(words))]
        total = sum(10.0 ** log_probs[places]) + 10.0 ** log_probs[-1]
        assert total == pytest.approx(1, abs=1e-5), context


def test_perplexity_falls_with_the_order():
    text, held_out = ([chain(RANDOM.randrange(12), 10) for _ in range(count)] for count in (2000, 100))
    found = {}
    for order in (1, 2, 3):
        found[order] = evaluate(estimate(text, order).model, held_out).perplexity
    assert found[1] > 1.3 * found[2] and found[2] > 1.05 * found[3]
    assert found[1] < 11


def test_a_vocabulary():
    """All its words are listed, the others become <unk>."""
    found = estimate([["a", "b", "x"], ["y"]], 2, ["<unk>", "a", "b", "c"])
    assert found.model.words == ["<unk>", "<s>", "</s>", "a", "b", "c"] and found.num_unknown == 2
    log_probs, known = found.model.sentence_log_probs([["x"], ["z"], ["c"]])
    assert known.tolist() == [False, True, False, True, True, True]
    assert log_probs[0] == log_probs[2] > log_probs[4] > -2


def test_the_file_of_an_estimate(tmp_path):
    model = estimate(TEXT, 3, prune=[0, 0, 1]).model
    write_arpa(tmp_path / "lm.arpa", model)
    read = read_arpa(tmp_path / "lm.arpa")
    assert read.sizes == model.sizes
    assert (read.sentence_log_probs(HELD_OUT)[0] == model.sentence_log_probs(HELD_OUT)[0]).all()


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ([], "text: found no words, expected some"),
        ([[], []], "text: found no words, expected some"),
        ([["a"], ["b", "</s>"]], "text: found </s> in sentence 2, expected words only"),
    ],
)
def test_texts_that_teach_nothing(sentences, message):
    with pytest.raises(UserError, match=message):
        estimate(sentences, 2)


@pytest.mark.parametrize(("order", "prune"), [(0, []), (3, [1]), (3, [0, 2, 1])])
def test_impossible_settings(order, prune):
    with pytest.raises(ValueError, match="found order"):
        estimate([["a"]], order, prune=prune)
