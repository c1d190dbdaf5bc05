"""egs/librilight/asr: every stage on generated corpora, from tiny pretrained encoders."""

import pytest

from tests.recipes.corpora import librispeech, librispeech_finetuning, librispeech_lm
from tests.recipes.recognisers import ENCODERS, STAGES, check_recogniser, pretrained, tiny
from tests.recipes.test_librispeech_ssl import run
from toolkit.data.manifests import open_cuts

RECIPE = "librilight/asr"


def test_help_names_stages_and_settings(root):
    text = run(root, RECIPE, root, "--help")
    assert all(f" {stage} " in text for stage in [*STAGES[:-1], "graph"])
    assert "files for sherpa-onnx" not in text
    assert "files for sherpa-onnx" in run(root, RECIPE, root, "--help", model="hubert_large")
    assert "10min, 1h (default) or 10h" in text and "hubert_large" in text


def test_an_unknown_subset_is_refused(root, tmp_path):
    with pytest.raises(AssertionError, match="subset: found 2h, expected 10min, 1h or 10h"):
        run(root, RECIPE, tmp_path, subset="2h")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "encoder", "subset", "count"),
    [
        ("zipformer", "librispeech/ssl/conf/zipformer_base", "10min", 4),
        ("hubert_large", "librilight/ssl/conf/hubert_large", "1h", 24),
        ("hubert_base", "librispeech/ssl/conf/hubert_base", "10h", 28),
    ],
)
@pytest.mark.usefixtures("process_settings")
def test_every_stage(root, tmp_path, model, encoder, subset, count):
    # Without a section of its own, the encoder is as small as the pretrained one.
    small = [] if model == "zipformer" else ENCODERS[encoder]
    settings = {
        "corpus": str(librispeech(tmp_path, {"dev-other": 4, "test-clean": 4})),
        "finetuning": str(librispeech_finetuning(tmp_path)),
        "lm_data": str(librispeech_lm(tmp_path)),
        "pretrained": str(pretrained(root, tmp_path, encoder)),
        **{"model": model, "subset": subset, "test_parts": "dev-other test-clean", "ngram_lines": "100"},
    }
    run(root, RECIPE, tmp_path, **settings, **tiny(*small))
    exp, sets = tmp_path / f"exp/{model}-{subset}", ["dev-other", "test-clean"]
    check_recogniser(exp, "ctc", sets, exports=model == "hubert_large")
    assert len(list(open_cuts(tmp_path / f"data/cuts_train_{subset}.jsonl.gz"))) == count
