"""The page and the command: structure, numbers, hygiene and faults; how it looks is for the eye."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from toolkit.bin import report, run
from toolkit.report.results import read_metrics

KINDS = {"curves": 2, "wer": 1, "det": 1, "timeline": 1, "alignment": 1, "quality": 1, "times": 1}


class Page(HTMLParser):
    """What a reader of the page would check: ids, links, tables, tags that are closed."""

    VOID = {"meta", "br", "img", "input", "link", "hr"}

    def __init__(self, text: str):
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.sections: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.attributes.append((tag, values))
        if values.get("id"):
            self.ids.append(values["id"])
        for key in ("href", "src", "xlink:href"):
            if values.get(key):
                self.links.append(values[key])
        self.links += [
            f"#{name}" for value in values.values() for name in re.findall(r"url\(#(.*?)\)", value or "")
        ]
        if tag == "section":
            self.sections.append([])
        if self.sections:
            self.sections[-1].append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


@pytest.fixture(scope="module")
def made(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with report.html and table.md of the whole experiment."""
    out = tmp_path_factory.mktemp("out")
    files = ["--out", f"{out}/report.html", "--table", f"{out}/table.md", "--data", f"{experiment}/data"]
    report.main(["--exp", str(experiment), *files, "--strict"])
    return out


@pytest.fixture
def html(made: Path) -> str:
    return (made / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def fails(tmp_path: Path, experiment: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """Runs the command on a description; returns its one line of complaint."""

    def complaint(description: str, *more: str) -> str:
        (tmp_path / "page.yaml").write_text(description, encoding="utf-8")
        args = [
            "--exp",
            str(experiment),
            "--out",
            f"{tmp_path}/out.html",
            "--config",
            f"{tmp_path}/page.yaml",
        ]
        monkeypatch.setattr(sys, "argv", ["report.py", *args, *more])
        with pytest.raises(SystemExit) as exit:
            run(report.main)
        assert exit.value.code == 2
        assert not (tmp_path / "out.html").exists()
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("report: error: ")
        return error

    return complaint


def test_page_is_well_formed_and_all_ids_resolve(html: str) -> None:
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    inside = [link[1:] for link in page.links if link.startswith("#")]
    assert set(inside) <= set(page.ids)
    assert {"summary", "training", "training-again", "content"} <= set(page.ids)


def test_page_needs_no_network_and_no_script(html: str) -> None:
    page = Page(html)
    assert all(
        link.startswith(("#", "data:image/png;base64,", "data:audio/flac;base64,")) for link in page.links
    )
    assert not re.search(r"https?://", html) and "@import" not in html
    assert not {"script", "iframe", "link", "object"} & set(page.tags)
    assert len(html) < 1_000_000


def test_every_section_has_pictures_with_a_description(html: str) -> None:
    page = Page(html)
    assert len(page.sections) == 1 + sum(KINDS.values())
    assert all("svg" in tags for tags in page.sections[1:])
    pictures = [values for tag, values in page.attributes if tag == "svg"]
    assert all(values["role"] == "img" and values["aria-label"] for values in pictures)
    assert all(values.get("scope") for tag, values in page.attributes if tag == "th")
    assert all("caption" in tags for tags in page.sections if "table" in tags)


def test_text_from_files_is_escaped(html: str) -> None:
    assert "<script" not in html and "pre<b>" not in html and "<three>" not in html and "x<y>" not in html
    assert "<title>Everything &lt;at once&gt; &amp; more</title>" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_numbers_are_those_of_the_files(html: str, made: Path, experiment: Path) -> None:
    wer, new, eer, der = (
        json.loads((experiment / name).read_text())
        for name in ("asr-scratch/wer.json", "asr/wer.json", "speaker/eer.json", "diarization/der.json")
    )
    cells = Page(html).cells
    table = (made / "table.md").read_text(encoding="utf-8")
    expected = [
        f"{100 * wer['wer']:.2f} %",
        f"{100 * wer['wer_low']:.2f} to {100 * wer['wer_high']:.2f}",
        f"{100 * new['wer_difference']:.2f} %",
        f"{100 * eer['eer']:.2f} %",
        f"{100 * eer['eer_low']:.2f} to {100 * eer['eer_high']:.2f} over trials",
        f"{eer['min_dcf_p0.01']:.3f}",
        f"{100 * der['der']:.2f} %",
        f"{100 * der['jer']:.2f} %",
        "0.457",
        "2 min 00 s",
        "2 min 04 s",
    ]
    for number in expected:
        assert number in cells and f"| {number} |" in table
    assert f"WER minus baseline (p={new['p_one_sided']:.2g})" in cells
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert {row[4] for row in rows} == {"real recordings", "real recordings: test-a", "synthetic voices",
                                        "simulated meetings", "-"}  # fmt: skip
    assert [row[5] for row in rows if row[0] == "x<y>"] == ["60 trials"] * 4


def test_same_inputs_give_the_same_bytes(made: Path, experiment: Path, tmp_path: Path) -> None:
    report.main(["--exp", str(experiment), "--out", f"{tmp_path}/again.html", "--data", f"{experiment}/data"])
    assert (tmp_path / "again.html").read_bytes() == (made / "report.html").read_bytes()


def test_table_and_title_on_the_command_line(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "page.json").write_text(
        '{"results": [{"name": "a", "file": "asr/wer.json", "data": "real"}]}'
    )
    out = tmp_path / "deep" / "page.html"
    args = [
        "--exp",
        str(experiment),
        "--out",
        str(out),
        "--config",
        f"{tmp_path}/page.json",
        "--title",
        "Mine",
    ]
    report.main(args)
    assert "<h1>Mine</h1>" in out.read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert re.search(
        r"^a +WER +[\d.]+ % +[\d.]+ to [\d.]+ +real recordings +4 utterances$", printed, re.MULTILINE
    )


def test_examples_mark_errors(html: str) -> None:
    assert 'one <mark title="for: two">too</mark> &lt;three&gt;' in html
    assert "six <ins>six</ins>" in html or "<ins>six</ins> six" in html


def test_missing_parts_are_shown_as_not_run(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    exp = tmp_path / "half"
    shutil.copytree(experiment, exp)
    for gone in ("asr", "speaker", "diarization", "labels"):
        shutil.rmtree(exp / gone)
    (exp / "times.jsonl").unlink()
    report.main(["--exp", str(exp), "--out", f"{exp}/report.html", "--data", f"{exp}/data"])
    html = (exp / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert len(page.sections) == 1 + sum(KINDS.values())
    for path in (
        "asr/metrics.jsonl",
        "speaker/scores",
        "diarization/hyp.rttm",
        "asr/align.ctm",
        "times.jsonl",
    ):
        assert f"<code>{path}</code>" in html
    assert page.cells.count("not run") == 5
    assert "not run" in capsys.readouterr().out


def test_a_folder_without_a_description(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    exp = tmp_path / "plain"
    shutil.copytree(experiment, exp)
    (exp / "report.yaml").unlink()
    (exp / "data/trials").rename(exp / "speaker/trials")
    (exp / "asr/align.ctm").rename(exp / "asr/hyp.ctm")
    (exp / "data/cuts.jsonl.gz").rename(exp / "asr/cuts.jsonl.gz")
    report.main(["--exp", str(exp), "--out", f"{exp}/report.html", "--strict"])
    page = Page((exp / "report.html").read_text(encoding="utf-8"))
    assert {"training-asr-asr-scratch", "quality-of-the-frame-labels", "recognition"} <= set(page.ids)
    assert {"alignment-asr", "speaker-verification", "diarization-diarization", "time"} <= set(page.ids)
    assert "asr-scratch/wer" in page.cells and "not stated" in page.cells
    assert "plain" in capsys.readouterr().out


def test_labels_without_reference_and_scores_with_labels(tmp_path: Path) -> None:
    quality = {
        "num_frames": 9,
        "num_clusters": 4,
        "usage_entropy": 0.5,
        "purity": None,
        "cluster_purity": None,
    }
    (tmp_path / "q.json").write_text(json.dumps(quality | {"pnmi": None}))
    (tmp_path / "scores").write_text("a b 1.0 target\na c 0.5 nontarget\nb c 0.7 nontarget\n")
    sections = "[{kind: det, scores: {s: scores}}, {kind: quality, iterations: {one: q.json}}]"
    (tmp_path / "report.yaml").write_text(f"results: [{{name: l, file: q.json}}]\nsections: {sections}\n")
    report.main(["--exp", str(tmp_path), "--out", f"{tmp_path}/r.html", "--table", f"{tmp_path}/t.md"])
    assert "| l | even use | 0.500 | - | not stated | 9 frames |" in (tmp_path / "t.md").read_text()
    assert "EER 0.00 %" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("description", "parts"),
    [
        ("title: [", ["page.yaml:1", "not YAML"]),
        ("titel: a", ["titel", "nearest valid: title"]),
        ("sections: 3", ["sections", "expected a list"]),
        ("sections: [{kind: bars}]", ["sections[0].kind", "'bars'", "curves"]),
        ("sections: [{kind: curves}]", ["sections[0] (curves)", "runs is missing"]),
        ("sections: [{kind: curves, runs: {a: asr}, log: 1}]", ["unknown key log", "log_x"]),
        ("sections: [{kind: curves, runs: {a: asr}, x: steps}]", ["x: found 'steps'", "'step'"]),
        ("sections: [{kind: curves, runs: {a: asr}, values: {accurcy: a}}]", ["'accurcy'", "accuracy"]),
        ("sections: [{kind: det, scores: {a: b}, p_target: 2}]", ["p_target", "between 0 and 1"]),
        ("sections: [{kind: det, scores: {a: speaker/scores}}]", ["no labels", "trials"]),
        ("sections: [{kind: det, scores: {a: b}, trials: {c: d}}]", ["trials", "'c'", "scores"]),
        ("results: [{name: a, file: asr/wer.json, data: fake}]", ["results[0]", "data", "'fake'", "'real'"]),
        ("results: [{name: a, file: asr/wer.json, metrics: [EER]}]", ["'EER'", "WER, CER"]),
        ("results: [{name: a, file: asr/hyp}]", ["asr/hyp:1", "not JSON"]),
        ("sections: [{kind: wer, systems: {a: speaker/eer.json}}]", ["eer.json", "'eer'", "expected wer"]),
        ("sections: [{kind: wer, systems: {a: asr/wer.json}, details: {a: asr/hyp}}]", ["hyp:1", "#csid"]),
        ("sections: [{kind: times, file: asr/metrics.jsonl}]", ["metrics.jsonl: record 1", "seconds"]),
        ("sections: [{kind: curves, runs: {a: times.jsonl}}]", ["times.jsonl: record 1", "split"]),
        ("sections: [{kind: timeline, reference: asr/hyp, hypothesis: asr/hyp}]", ["asr/hyp:1", "SPEAKER"]),
        (
            "sections: [{kind: timeline, reference: diarization/ref.rttm, hypothesis: diarization/hyp.rttm, "
            "recordings: [zoom]}]",
            ["'zoom'", "m0, m1"],
        ),
        ("sections: [{kind: alignment, cuts: data/cuts.jsonl.gz, ctm: asr/hyp}]", ["asr/hyp:1", "duration"]),
        (
            "sections: [{kind: alignment, cuts: data/cuts.jsonl.gz, ctm: asr/align.ctm, ids: [u9]}]",
            ["'u9'", "align.ctm"],
        ),
        ("sections: [{kind: alignment, cuts: data/text, ctm: asr/align.ctm}]", ["data/text"]),
        ('results: [{name: a, file: "{data}/x"}]', ["--data DIR"]),
    ],
)  # fmt: skip
def test_faults_are_named_in_one_line(fails: Callable, description: str, parts: list[str]) -> None:
    error = fails(description)
    assert all(part in error for part in parts), error


def test_strict_names_the_missing_file(fails: Callable) -> None:
    error = fails("sections: [{kind: times, file: nowhere.jsonl}]", "--strict")
    assert "nowhere.jsonl: no such file (1 such)" in error


def test_posteriors_that_cannot_be_read(fails: Callable, tmp_path: Path) -> None:
    (tmp_path / "u1.npz").write_bytes(b"not a zip")
    files = f"cuts: data/cuts.jsonl.gz, ctm: asr/align.ctm, posteriors: {tmp_path}"
    assert "u1.npz" in fails(f"sections: [{{kind: alignment, {files}}}]")


def test_details_that_were_cut_off(fails: Callable, tmp_path: Path) -> None:
    (tmp_path / "wer.txt").write_text("u1 ref one\nu1 hyp one\nu1 op C\nu1\n")
    details = f"details: {{a: {tmp_path}/wer.txt}}"
    error = fails(f"sections: [{{kind: wer, systems: {{a: asr/wer.json}}, {details}}}]")
    assert "wer.txt:4: found 'u1', expected `id ref|hyp|op|#csid ...`" in error


def test_the_interval_of_the_eer_names_what_was_drawn(
    fails: Callable, experiment: Path, tmp_path: Path
) -> None:
    content = json.loads((experiment / "speaker/eer.json").read_text())
    (tmp_path / "eer.json").write_text(json.dumps(content | {"bootstrap_unit": "speakers"}))
    kind, (eer, *others), scored_on = read_metrics(tmp_path / "eer.json")
    assert (kind, scored_on) == ("eer", "60 trials") and eer.cells[1].endswith(" over speakers")
    assert all(not metric.cells[1] for metric in others)
    (tmp_path / "eer.json").write_text(json.dumps(content | {"bootstrap_unit": None}))
    error = fails(f"results: [{{name: a, file: {tmp_path}/eer.json}}]")
    assert "eer.json: bootstrap_unit: found None, expected 'trials' or 'speakers'" in error


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_no_experiment(name: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(
        sys, "argv", ["report.py", "--exp", f"{tmp_path}/{name}", "--out", f"{tmp_path}/x.html"]
    )
    with pytest.raises(SystemExit) as exit:
        run(report.main)
    assert exit.value.code == 2
    assert f"{tmp_path}/{name}: no" in capsys.readouterr().err


def test_print_keys_lists_every_kind(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit:
        report.main(["--print-keys"])
    assert not exit.value.code
    printed = capsys.readouterr().out
    assert all(f'kind: "{kind}"' in printed for kind in KINDS)
