"""What a configuration names becomes one scorer, whose scores are the scaled sum of its parts'."""

import random

import pytest
import torch

from tests.decode.scorers import walk
from tests.decode.small_transducer import make_frames, make_model
from tests.text.ngrams import arpa_text, natural, random_model, sentence
from toolkit import checkpoint, config
from toolkit.decode.fusion import LEAST_TAKEN_AWAY, FusionConfig, build_scorer, load_neural_scorer
from toolkit.decode.modified_beam import ModifiedBeam, ModifiedBeamConfig
from toolkit.errors import UserError
from toolkit.models.lm import LanguageModel, LstmLmConfig
from toolkit.tasks.lm import LmConfig
from toolkit.text.tokenizer import CharTokenizer

TOKENS = ["<blk>", "<unk>", "▁", "a", "b"]
TOKENIZER = CharTokenizer(TOKENS)
SAID = [3, 4, 2, 3, 4]


@pytest.fixture
def files(tmp_path):
    """Name -> what a configuration names, and a list of the scores that each gives for SAID and its end."""
    models = {
        name: random_model(random.Random(name), ["<unk>", *TOKENS[2:]], 2) for name in ("ngram", "lodr")
    }
    for name, model in models.items():
        (tmp_path / f"{name}.arpa").write_text(arpa_text(model))
    (tmp_path / "phrases").write_text("ab\nb a\t0.5\n")
    network = LstmLmConfig(dim=8, num_layers=1)
    torch.manual_seed(0)
    lm = LanguageModel(network, len(TOKENS)).eval()
    config.save(LmConfig(network=network), tmp_path / "lm/config.yaml")
    checkpoint.save(tmp_path / "lm/model.safetensors", lm.state_dict())
    TOKENIZER.save(tmp_path / "lm")
    named = {"ngram": "ngram.arpa", "lodr": "lodr.arpa", "lm": "lm", "biasing": "phrases"}
    scores = {
        name: natural(sentence(model, [TOKENS[token] for token in SAID])) for name, model in models.items()
    }
    with torch.no_grad():
        rows = lm(torch.tensor([SAID]))[0]
    scores["lm"] = [float(row[token]) for row, token in zip(rows, [*SAID, 0], strict=True)]
    # "ab" is found whole; so is the second one, and its "a" goes on with nothing.
    scores["biasing"] = [1.5, 1.5, 0.0, 1.5, 1.5, 0.0]
    return {name: str(tmp_path / path) for name, path in named.items()}, scores


@pytest.mark.parametrize(
    "names", [["ngram"], ["lm"], ["biasing"], ["lodr"], ["ngram", "lm", "biasing", "lodr"]]
)
def test_the_scaled_sum(files, names):
    paths, scores = files
    scales = {"ngram": 0.7, "lm": 0.4, "biasing": 1.0, "lodr": -0.3}
    settings = FusionConfig(
        **{name: paths[name] for name in names}, ngram_scale=0.7, lm_scale=0.4, lodr_scale=0.3
    )
    found, final = walk(build_scorer(settings, TOKENIZER), SAID)
    for place, score in enumerate([*found, final]):
        expected = sum(scales[name] * scores[name][place] for name in names)
        assert score == pytest.approx(expected, abs=1e-4), place


def test_nothing_is_named():
    assert build_scorer(FusionConfig(), TOKENIZER) is None


def test_what_the_model_that_is_taken_away_never_saw_is_no_gain(tmp_path):
    path = tmp_path / "a.arpa"
    path.write_text(arpa_text(random_model(random.Random(0), ["a", "▁"], 2)))
    found, _ = walk(build_scorer(FusionConfig(lodr=str(path), lodr_scale=0.5), TOKENIZER), [4])
    assert found == pytest.approx([-0.5 * LEAST_TAKEN_AWAY])


def test_a_search_is_led_by_what_is_fused_in(files):
    """Phrases that are worth much are found where they were not."""
    frames, lengths = make_frames(30, 25)
    model = make_model()
    texts = []
    for settings in (FusionConfig(), FusionConfig(biasing=files[0]["biasing"], biasing_score=6.0)):
        search = ModifiedBeam(ModifiedBeamConfig(fusion=settings), model, TOKENIZER, "cpu")
        texts.append([TOKENIZER.decode(t.id for t in best.tokens) for (best,) in search(frames, lengths)])
    before, after = (sum(text.count("ab") for text in found) for found in texts)
    assert after > before + 3


def test_language_models_that_do_not_fit(files, tmp_path):
    folder = files[0]["lm"]
    with pytest.raises(UserError, match="lm: found token 4 to be 'b', expected 'c' of the recogniser"):
        load_neural_scorer(folder, [*TOKENS[:-1], "c"])
    (tmp_path / "config.yaml").write_text("task: asr\n")
    with pytest.raises(UserError, match="config.yaml: task: found 'asr', expected 'lm'"):
        load_neural_scorer(tmp_path, TOKENS)
    with pytest.raises(UserError, match="none/config.yaml: no such file"):
        load_neural_scorer(tmp_path / "none", TOKENS)
    with pytest.raises(ValueError, match="lm_scale must not be negative, got -1"):
        FusionConfig(lm_scale=-1)
