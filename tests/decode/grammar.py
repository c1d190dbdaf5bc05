"""A lexicon and an n-gram model that are small enough to enumerate, with plain Python that scores by them."""

import itertools
import math

from toolkit.decode.vocabulary import Vocabulary
from toolkit.text.arpa import read_arpa

ARPA = """\\data\\
ngram 1=6
ngram 2=5
ngram 3=2

\\1-grams:
-1.1\t</s>
-99\t<s>\t-0.4
-0.6\tA\t-0.3
-0.9\tB\t-0.2
-1.3\tC
-0.7\tD\t-0.1

\\2-grams:
-0.3\t<s> A\t-0.5
-0.8\tA B\t-0.6
-0.2\tB A
-0.4\tA </s>
-0.5\tD D\t0.2

\\3-grams:
-0.1\t<s> A B
-0.7\tA B </s>

\\end\\
"""

SPELLINGS = [
    ("A", (1,)),
    ("B", (1, 2)),
    ("C", (2,)),
    ("D", (2,)),
    ("D", (3, 1)),
]
"""A word that begins another, two words spelled alike, and a word with two spellings; B = A C = A D to the ear."""


def ngrams():
    """n-gram -> (log-probability, back-off weight), in natural logarithms."""
    found = {}
    for line in ARPA.splitlines():
        fields = line.split("\t")
        if len(fields) > 1:
            backoff = float(fields[2]) if len(fields) > 2 else 0.0
            found[tuple(fields[1].split())] = (float(fields[0]) * math.log(10), backoff * math.log(10))
    return found


NGRAMS = ngrams()


def word_score(context, word):
    """Log-probability of a word after others by definition of the back-off."""
    if (*context, word) in NGRAMS:
        return NGRAMS[(*context, word)][0]
    return NGRAMS.get(context, (0, 0))[1] + word_score(context[1:], word)


def text_score(words):
    """Log-probability of a whole text."""
    history, total = ("<s>",), 0.0
    for word in (*words, "</s>"):
        total += word_score(history[-2:], word)
        history += (word,)
    return total


def texts(most_tokens, spellings=SPELLINGS):
    """Every text with every way to spell it, (words, tokens), of up to so many tokens."""
    for count in range(most_tokens + 1):
        for entries in itertools.product(spellings, repeat=count):
            tokens = tuple(token for _, spelling in entries for token in spelling)
            if len(tokens) <= most_tokens:
                yield tuple(word for word, _ in entries), tokens


def vocabulary(spellings=SPELLINGS, space=None):
    """The words as searches take them."""
    words = list(dict.fromkeys(["", *(word for word, _ in spellings)]))
    return Vocabulary(words, [(words.index(word), tokens) for word, tokens in spellings], space)


def ngram_model(folder):
    """The model of ARPA, by way of a file."""
    path = folder / "words.arpa"
    path.write_text(ARPA)
    return read_arpa(path)


class LogProbs:
    """Stands for a recogniser whose frames are log-probabilities already."""

    ctc = True

    @staticmethod
    def ctc_log_probs(frames):
        return frames
