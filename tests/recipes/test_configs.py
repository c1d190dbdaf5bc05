"""Every configuration of the recipes builds its model, as large as it is, and makes an update of it."""

import json
import math

import pytest
import yaml
from lhotse import NumpyFilesWriter

from toolkit import config
from toolkit.bin import train
from toolkit.data.manifests import open_cuts, write_cuts
from toolkit.data.synthetic import synthetic_cuts
from toolkit.models.base import SpeechEncoder
from toolkit.tasks import TASKS, task_class


def configurations(root):
    """The files that say what is learned; others (of reports, say) have no task."""
    files = sorted(root.glob("egs/*/conf/*.yaml")) + sorted(root.glob("egs/*/*/conf/*.yaml"))
    return [path for path in files if "task" in yaml.safe_load(path.read_text(encoding="utf-8"))]


def pytest_generate_tests(metafunc):
    if "configuration" in metafunc.fixturenames:
        root = metafunc.config.rootpath
        paths = configurations(root)
        metafunc.parametrize("configuration", paths, ids=[str(path.relative_to(root)) for path in paths])


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
    shift = SpeechEncoder(settings.speech).frame_shift
    cuts = list(open_cuts(corpus / "cuts.jsonl.gz"))
    with NumpyFilesWriter(corpus / f"labels-{shift}") as writer:
        for cut in cuts:
            labels = cut.load_labels()[:: round(shift / cut.labels.frame_shift)]
            cut.labels = writer.store_array(cut.id, labels, frame_shift=shift, temporal_dim=0, start=0.0)
    return cuts


def meeting_data(corpus, settings):
    """Meetings of four turns, two of which overlap."""
    a, b, c, d, *_ = plain_data(corpus, settings)
    meeting = a.append(b).mix(c, offset_other_by=a.duration + 0.5).append(d)
    return [meeting.with_id(f"meeting{index}") for index in range(2)]


DATA = {"ssl": labelled_data, "asr": plain_data, "speaker": plain_data, "diarization": meeting_data}


def test_every_task_has_data():
    assert DATA.keys() == TASKS.keys()


def test_the_recipes_have_configurations(root):
    found = {yaml.safe_load(path.read_text())["task"] for path in configurations(root)}
    assert found == set(TASKS), "tasks without a configuration that shows them"


@pytest.mark.usefixtures("process_settings")
def test_an_update(configuration, corpus, tmp_path):
    task = yaml.safe_load(configuration.read_text(encoding="utf-8"))["task"]
    settings = config.load(task_class(task, str(configuration)).Config, configuration)
    manifest = tmp_path / "cuts.jsonl.gz"
    write_cuts(manifest, DATA[task](corpus, settings))
    train.main(
        [
            *("--config", str(configuration), "--exp", str(tmp_path / "exp")),
            *(f"--data.train={manifest}", f"--data.valid={manifest}", "--data.sampler.max_duration=8"),
            *("--train.max_updates=1", "--train.threads=1"),
        ]
    )
    rows = [json.loads(line) for line in (tmp_path / "exp" / "metrics.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["train", "valid"]
    for row in rows:
        assert row["loss"] > 0 and all(math.isfinite(v) for v in row.values() if isinstance(v, float))
    assert rows[0]["grad_norm"] > 0
    assert not (tmp_path / "exp" / "skipped.jsonl").read_text()
    assert (tmp_path / "exp" / "model" / "model.safetensors").exists()
