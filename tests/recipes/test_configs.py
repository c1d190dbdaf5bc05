"""Every configuration of the recipes builds its model and, but for the largest, makes an update of it."""

import json
import math

import pytest
import torch
import yaml
from lhotse import NumpyFilesWriter

from toolkit import config
from toolkit.bin import train
from toolkit.data.manifests import open_cuts, write_cuts
from toolkit.data.synthetic import synthetic_cuts
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.lm import LanguageModel
from toolkit.models.published import PUBLISHED
from toolkit.tasks import TASKS, task_class
from toolkit.tasks.base import check_speech


def configurations(root):
    """The files that say what is learned; others (of reports, say) have no task."""
    files = sorted(root.glob("egs/*/conf/*.yaml")) + sorted(root.glob("egs/*/*/conf/*.yaml"))
    return [path for path in files if "task" in yaml.safe_load(path.read_text(encoding="utf-8"))]


def pytest_generate_tests(metafunc):
    if "configuration" in metafunc.fixturenames:
        root = metafunc.config.rootpath
        rows = [
            pytest.param(
                path, id=str(path.relative_to(root)), marks=[pytest.mark.slow] * (millions(path) > 20)
            )
            for path in configurations(root)
            # Larger ones take more than 10 GB; the tests of their recipes make them small.
            if millions(path) < 200
        ]
        metafunc.parametrize("configuration", rows)


def load(path):
    """The settings of a configuration."""
    task = yaml.safe_load(path.read_text(encoding="utf-8"))["task"]
    return config.load(task_class(task, str(path)).Config, path)


def without_weights(settings):
    """The encoder of a configuration, which takes no memory."""
    with torch.device("meta"):
        return SpeechEncoder(settings.speech)


def millions(path):
    """Parameters of the encoder of a configuration; with 20 million, an update takes minutes on a CPU."""
    settings = load(path)
    if settings.task == "lm":
        with torch.device("meta"):
            model = LanguageModel(settings.network, 500)
    else:
        model = without_weights(settings)
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with files of six utterances."""
    folder = tmp_path_factory.mktemp("corpus")
    synthetic_cuts(6, folder=folder)
    return folder


def without_labels(cut):
    cut.custom.pop("labels")
    return cut


def plain_data(corpus, settings):
    """Utterances with transcripts and speakers."""
    return [without_labels(cut) for cut in open_cuts(corpus / "cuts.jsonl.gz")]


def labelled_data(corpus, settings):
    """Utterances with labels as often as the encoder has frames."""
    speech = without_weights(settings)
    shift = speech.frame_shift
    cuts = list(open_cuts(corpus / "cuts.jsonl.gz"))
    with NumpyFilesWriter(corpus / f"labels-{shift}") as writer:
        for cut in cuts:
            labels = cut.load_labels()[:: round(shift / cut.labels.frame_shift)]
            labels = labels[: speech.output_lengths(cut.num_samples)]
            cut.labels = writer.store_array(cut.id, labels, frame_shift=shift, temporal_dim=0, start=0.0)
    return cuts


def meeting_data(corpus, settings):
    """Meetings of four turns, two of which overlap."""
    a, b, c, d, *_ = plain_data(corpus, settings)
    meeting = a.append(b).mix(c, offset_other_by=a.duration + 0.5).append(d)
    return [meeting.with_id(f"meeting{index}") for index in range(2)]


DATA = {
    "ssl": labelled_data,
    "asr": plain_data,
    "speaker": plain_data,
    "diarization": meeting_data,
    "lm": plain_data,
}
OF_AUDIO = ["--data.sampler.max_duration=8", "--data.sampler.min_seconds=0.1"]


def test_every_task_has_data():
    assert DATA.keys() == TASKS.keys()


def test_the_recipes_have_configurations(root):
    found = {yaml.safe_load(path.read_text())["task"] for path in configurations(root)}
    assert found == set(TASKS), "tasks without a configuration that shows them"


PUBLISHED_SIZES = {
    "librispeech/ssl/conf/zipformer_base": "zipformer-base",
    "librispeech/ssl/conf/zipformer_base_fbank": "zipformer-base-fbank",
    "librilight/ssl/conf/zipformer_large": "zipformer-large",
    "librispeech/asr/conf/zipformer_transducer": "zipformer-asr-medium",
    "librispeech/asr/conf/zipformer_ctc": "zipformer-asr-medium",
    "aishell/asr/conf/zipformer_transducer": "zipformer-asr-medium",
    "aishell/asr/conf/zipformer_ctc": "zipformer-asr-medium",
}


@pytest.mark.parametrize(("name", "published"), PUBLISHED_SIZES.items())
def test_encoders_have_the_published_sizes(root, name, published):
    found = load(root / f"egs/{name}.yaml").speech
    expected = config.build(SpeechConfig, PUBLISHED[published], published)
    # How fast the schedules run depends on the size of a batch, which is the recipe's.
    ignored = {"encoder.updates_scale"}
    different = config.differences(config.to_dict(found), config.to_dict(expected)).keys() - ignored
    assert not different


@pytest.mark.parametrize(
    ("name", "count"),
    [("librispeech/ssl/conf/hubert_base", 94_371_712), ("librilight/ssl/conf/hubert_large", 315_438_720)],
)
def test_hubert_has_as_many_parameters_as_the_published_models(root, name, count):
    speech = without_weights(load(root / f"egs/{name}.yaml"))
    assert sum(parameter.numel() for parameter in speech.parameters()) == count


@pytest.mark.parametrize(
    ("name", "pretrained"),
    [
        ("librispeech/asr/conf/hubert_base_ctc", "librispeech/ssl/conf/hubert_base"),
        ("librilight/asr/conf/hubert_base", "librispeech/ssl/conf/hubert_base"),
        ("librilight/asr/conf/hubert_large", "librilight/ssl/conf/hubert_large"),
    ],
)
def test_fine_tuning_fits_the_pretrained_encoder(root, name, pretrained):
    speech = load(root / f"egs/{name}.yaml").speech
    check_speech(speech, root / f"egs/{pretrained}.yaml")
    assert speech.frontend.feature_grad_mult == 0 and speech.encoder.layer_drop == 0.1


@pytest.mark.usefixtures("process_settings")
def test_an_update(configuration, corpus, tmp_path):
    task = yaml.safe_load(configuration.read_text(encoding="utf-8"))["task"]
    settings = load(configuration)
    manifest = tmp_path / "cuts.jsonl.gz"
    write_cuts(manifest, DATA[task](corpus, settings))
    train.main(
        [
            *("--config", str(configuration), "--exp", str(tmp_path / "exp")),
            *(f"--data.train={manifest}", f"--data.valid={manifest}", "--data.sampler.num_workers=0"),
            *("--train.max_updates=1", "--train.threads=1"),
            *([] if task == "lm" else OF_AUDIO),
            # The words of the tones make no 500 units.
            *(["--tokenizer.vocab_size=40"] if task == "asr" else []),
        ]
    )
    rows = [json.loads(line) for line in (tmp_path / "exp" / "metrics.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["train", "valid"]
    for row in rows:
        assert row["loss"] > 0 and all(math.isfinite(v) for v in row.values() if isinstance(v, float))
    assert rows[0]["grad_norm"] > 0
    assert not (tmp_path / "exp" / "skipped.jsonl").read_text()
    assert (tmp_path / "exp" / "model" / "model.safetensors").exists()
