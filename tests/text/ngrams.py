"""N-gram models of chance, and the definition of back-off over dictionaries."""

import itertools
import math


def random_model(draw, words, order):
    """N-gram -> (logarithm, back-off weight): every n-gram's first words are listed, its last ones need not be.

    Args:
        draw: `random.Random`.
        words: beside <s> and </s>.
        order: of the model.
    """
    grams = {(word,): None for word in ["<s>", "</s>", *words]}
    shorter = list(grams)
    for _ in range(order - 1):
        longer = [
            (*context, word)
            for context, word in itertools.product(shorter, ["</s>", *words])
            if context[-1] != "</s>" and draw.random() < 0.4
        ]
        grams |= dict.fromkeys(longer)
        shorter = longer
    contexts = {gram[:-1] for gram in grams}
    return {
        gram: (
            -99.0 if gram == ("<s>",) else round(draw.uniform(-3, 0), 4),
            round(draw.uniform(-1, 0.3), 4) if gram in contexts else None,
        )
        for gram in grams
    }


def arpa_text(model):
    """The file of a model as `random_model` makes it."""
    order = max(map(len, model))
    levels = [[gram for gram in model if len(gram) == length] for length in range(1, order + 1)]
    lines = ["\\data\\", *(f"ngram {length}={len(level)}" for length, level in enumerate(levels, 1))]
    for length, level in enumerate(levels, 1):
        lines += ["", f"\\{length}-grams:"]
        for gram in level:
            log_prob, backoff = model[gram]
            lines.append(f"{log_prob}\t{' '.join(gram)}" + ("" if backoff is None else f"\t{backoff}"))
    return "\n".join([*lines, "", "\\end\\", ""])


def log_prob(model, word, history):
    """log10 P(word | history), as Katz defined back-off; None if the word is not listed."""
    history = tuple(history)[-max(map(len, model)) + 1 :] if max(map(len, model)) > 1 else ()
    if (*history, word) in model:
        return model[(*history, word)][0]
    if not history:
        return None
    rest = log_prob(model, word, history[1:])
    weight = model.get(history, (None, None))[1] or 0.0
    return None if rest is None else weight + rest


def sentence(model, words):
    """log10 of each word of a sentence and of its end."""
    words = [*words, "</s>"]
    return [log_prob(model, word, ["<s>", *words[:place]]) for place, word in enumerate(words)]


def natural(values):
    """Natural logarithms of decimal ones."""
    return [value * math.log(10) for value in values]
