"""egs/aishell/asr: every stage on a generated corpus, with the recipe's own flags and tiny models."""

import pytest

from tests.recipes.corpora import WORDS, aishell, chinese
from tests.recipes.recognisers import STAGES, TINY_TRANSDUCER, check_recogniser, tiny
from tests.recipes.test_librispeech_ssl import TINY_ZIPFORMER, run
from toolkit.text.arpa import read_arpa
from toolkit.text.tokenizer import load_tokenizer

RECIPE = "aishell/asr"


def test_help_names_stages_and_settings(root):
    text = run(root, RECIPE, root, "--help")
    assert all(f" {stage} " in text for stage in [*STAGES, "words"]) and "zipformer_ctc" in text


def test_a_corpus_that_is_not_there_is_named(root, tmp_path):
    with pytest.raises(AssertionError, match="gone/data_aishell: no such folder, expected AISHELL-1"):
        run(root, RECIPE, tmp_path, corpus=str(tmp_path / "gone"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "head", "small"),
    [("zipformer_transducer", "transducer", TINY_TRANSDUCER), ("zipformer_ctc", "ctc", [])],
)
def test_every_stage(root, tmp_path, model, head, small):
    corpus = aishell(tmp_path, {"train": 12, "dev": 4, "test": 4})
    run(root, RECIPE, tmp_path, **tiny(*TINY_ZIPFORMER, *small), corpus=str(corpus), model=model)
    exp = tmp_path / "exp" / model
    check_recogniser(exp, head, ["dev", "test"])
    assert (exp / "RESULTS.md").read_text().startswith("CER in per cent")
    assert set(load_tokenizer(exp / "model").tokens[3:]) <= set("".join(map(chinese, WORDS)))
    assert {chinese(word) for word in WORDS} <= set(read_arpa(tmp_path / "data/words.arpa").words)
