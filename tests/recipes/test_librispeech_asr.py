"""egs/librispeech/asr: every stage on a generated corpus, with the recipe's own flags and tiny models."""

import pytest

from tests.recipes.corpora import librispeech, librispeech_lm, musan
from tests.recipes.recognisers import (
    ENCODERS,
    STAGES,
    TINY_TRANSDUCER,
    check_recogniser,
    pretrained,
    tiny,
)
from tests.recipes.test_librispeech_ssl import TINY_ZIPFORMER, run
from toolkit.data.manifests import open_cuts

RECIPE, PRETRAINING = "librispeech/asr", "librispeech/ssl/conf"
PARTS = {"train-clean-100": 6, "train-clean-360": 4, "train-other-500": 2, "dev-clean": 4, "test-other": 4}
TINY_BPE = "--tokenizer.vocab_size=30"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """The settings that name the generated corpora."""
    folder = tmp_path_factory.mktemp("corpora")
    return {
        "corpus": str(librispeech(folder, PARTS)),
        "musan": str(musan(folder)),
        "lm_data": str(librispeech_lm(folder)),
        **{"valid_parts": "dev-clean", "test_parts": "dev-clean test-other", "ngram_lines": "100"},
    }


def test_help_names_stages_and_settings(root):
    text = run(root, RECIPE, root, "--help")
    assert all(f" {stage} " in text for stage in [*STAGES, "musan"])
    assert "zipformer_streaming" in text and " graph " not in text and " stream " not in text
    text = run(root, RECIPE, root, "--help", model="zipformer_streaming", musan="none")
    assert " stream " in text and "noise from openslr.org" not in text
    assert " graph " in run(root, RECIPE, root, "--help", model="hubert_base_ctc")


def test_wrong_hours_and_a_model_without_its_encoder_are_refused(root, tmp_path):
    with pytest.raises(AssertionError, match="hours: found 10, expected 100 or 960"):
        run(root, RECIPE, tmp_path, hours="10")
    with pytest.raises(AssertionError, match="pretrained: found nothing, expected the model directory"):
        run(root, RECIPE, tmp_path, model="finetune_transducer")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "hours", "head", "small", "num_gpus"),
    [
        ("zipformer_transducer", "960", "transducer", TINY_TRANSDUCER, "2"),
        ("zipformer_streaming", "100", "transducer", TINY_TRANSDUCER, "1"),
        ("zipformer_ctc", "100", "ctc", [], "2"),
    ],
)
def test_every_stage_from_scratch(root, tmp_path, corpora, model, hours, head, small, num_gpus):
    own = {"model": model, "hours": hours, "num_gpus": num_gpus}
    settings = {**corpora, **tiny(TINY_BPE, *TINY_ZIPFORMER, *small), **own}
    run(root, RECIPE, tmp_path, **settings)
    streaming = {"greedy", "beam", "ctc_greedy"} if model == "zipformer_streaming" else set()
    check_recogniser(tmp_path / f"exp/{model}-{hours}", head, ["dev-clean", "test-other"], streaming)
    cuts = list(open_cuts(tmp_path / f"data/cuts_train_{hours}.jsonl.gz"))
    assert len(cuts) == (12 if hours == "960" else 6)
    assert [cut.id for cut in cuts] != sorted(cut.id for cut in cuts)
    assert len(list(open_cuts(tmp_path / "data/cuts_musan.jsonl.gz"))) == 6
    again = run(root, RECIPE, tmp_path, **settings)
    assert "done in" not in again


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "encoder", "head", "small"),
    [
        ("finetune_transducer", f"{PRETRAINING}/zipformer_base", "transducer", [TINY_BPE, *TINY_TRANSDUCER]),
        ("hubert_base_ctc", f"{PRETRAINING}/hubert_base", "ctc", ENCODERS[f"{PRETRAINING}/hubert_base"]),
    ],
)
@pytest.mark.usefixtures("process_settings")
def test_every_stage_from_a_pretrained_encoder(root, tmp_path, corpora, model, encoder, head, small):
    own = {"model": model, "hours": "100", "pretrained": str(pretrained(root, tmp_path, encoder))}
    run(root, RECIPE, tmp_path, **corpora, **tiny(*small), **own)
    check_recogniser(tmp_path / f"exp/{model}-100", head, ["dev-clean", "test-other"], exports=False)
    assert not (tmp_path / "data/cuts_musan.jsonl.gz").exists()
