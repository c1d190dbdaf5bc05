"""The command: tables, files, and one line with exit code 2 for every kind of bad input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.bin import run
from toolkit.bin.score import main

FILES = {
    "ref": "a1 the cat sat\na2 hello world\nb1\n",
    "hyp": "a1 the bat sat\na2 hello there world\nb1\n",
    "short": "a1 the cat sat\n",
    "long": "a1 x\na2 y\nb1\nb2 z\n",
    "silent": "a1\na2\nb1\n",
    "utt2spk": "a1 anna\na2 anna\nb1 ben\n",
    "trn": "the cat (a1)\nno id\n",
    "trials": "1 a b\n0 a c\n1 b c\n0 d c\n",
    "scores": "a b 2\na c 1\nb c 3\nd c -1\n",
    "few": "a b 2\na c 1\n",
    "targets": "1 a b\n1 a c\n1 b c\n1 d c\n",
    "words": "a b high\n",
    "r.rttm": "SPEAKER m 1 0 5 <NA> <NA> x <NA> <NA>\nSPEAKER n 1 0 5 <NA> <NA> x <NA> <NA>\n",
    "h.rttm": "SPEAKER m 1 0 4 <NA> <NA> 1 <NA> <NA>\nSPEAKER n 1 0 6 <NA> <NA> 1 <NA> <NA>\n",
    "other.rttm": "SPEAKER q 1 0 4 <NA> <NA> 1 <NA> <NA>\n",
    "bad.rttm": "SPEAKER m 1 zero 4 <NA> <NA> 1 <NA> <NA>\n",
    "none.rttm": "",
    "m.uem": "m 1 0 5\n",
    "bad.uem": "m 1 5 0\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_wer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (
        "--baseline silent --utt2spk utt2spk --json out/wer.json --details out/wer.txt --replications 200"
    )
    main(f"wer --ref ref --hyp hyp {options}".split())
    content = json.loads(Path("out/wer.json").read_text(encoding="utf-8"))
    counts = [content[key] for key in ("words", "hits", "substitutions", "deletions", "insertions")]
    assert content["metric"] == "wer" and content["wer"] == pytest.approx(0.4) and counts == [5, 4, 1, 0, 1]
    assert content["baseline_wer"] == 1.0 and content["wer_difference"] == pytest.approx(-0.6)
    assert [row["speaker"] for row in content["speakers"]] == ["anna", "ben"]
    assert "a2 op    C      I      C" in Path("out/wer.txt").read_text(encoding="utf-8").splitlines()
    table = capsys.readouterr().out
    assert "40.00" in table and "cat -> bat" in table and "paired bootstrap" in table


def test_missing_hypotheses_count_as_deletions_when_asked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main("wer --ref ref --hyp short --missing empty --json wer.json --replications 100".split())
    content = json.loads(Path("wer.json").read_text(encoding="utf-8"))
    assert content["missing_hypotheses"] == 2 and content["deletions"] == 2
    assert "counted as deleted: 2" in capsys.readouterr().out


def test_what_the_baseline_lacks_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("more").write_text("a1 the cat sat\nb2 z\n")
    main("wer --ref ref --hyp hyp --baseline more --missing empty --extra ignore --json wer.json".split())
    content = json.loads(Path("wer.json").read_text(encoding="utf-8"))
    assert content["missing_hypotheses"] == content["extra_hypotheses"] == 0
    assert content["baseline_missing_hypotheses"] == 2 and content["baseline_extra_hypotheses"] == 1
    table = capsys.readouterr().out
    assert "baseline: utterances without a hypothesis, their words counted as deleted: 2" in table
    assert "baseline: hypotheses without a reference, left out: 1" in table


def test_digits_in_a_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, digits in (("text", "1 2 3 4 5"), ("digits", "1 2 3 4 6")):
        Path(name).write_text(f"u1 {digits}\n")
    main("wer --ref text --hyp digits --json wer.json".split())
    content = json.loads(Path("wer.json").read_text(encoding="utf-8"))
    assert (content["wer"], content["words"]) == (pytest.approx(0.2), 5)
    assert "format told by the content: digits is text\n" in capsys.readouterr().out
    main("wer --ref text --hyp digits --hyp-format text".split())
    assert "format told" not in capsys.readouterr().out


def test_recordings_without_a_transcript(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lhotse import CutSet

    from toolkit.data.manifests import mono_cut

    cuts = [mono_cut("a1", "a1.wav", 16000, text="the cat sat"), mono_cut("a2", "a2.wav", 16000)]
    CutSet.from_cuts(cuts).to_file("cuts.jsonl.gz")
    Path("text").write_text("a1 the cat\na2 who knows\n")
    main("wer --ref cuts.jsonl.gz --hyp text --json wer.json".split())
    content = json.loads(Path("wer.json").read_text(encoding="utf-8"))
    assert (content["words"], content["deletions"], content["utterances"]) == (3, 1, 1)
    assert (content["extra_hypotheses"], content["references_without_text"]) == (0, 1)
    assert "cuts of the reference without a text, left out: 1" in capsys.readouterr().out


def test_eer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main("eer --trials trials --scores scores --p-target 0.1 --json eer.json --details eer.txt".split())
    content = json.loads(Path("eer.json").read_text(encoding="utf-8"))
    assert content["metric"] == "eer" and content["eer"] == 0 and content["min_dcf_p0.1"] == 0
    assert (content["targets"], content["nontargets"], content["p_target"]) == (2, 2, [0.1])
    lines = Path("eer.txt").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["enroll test label score error", "a b target 2.0 -"]
    assert "minDCF p=0.1" in capsys.readouterr().out


def test_der(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main("der --ref r.rttm --hyp h.rttm --json der.json --details der.txt --replications 100".split())
    content = json.loads(Path("der.json").read_text(encoding="utf-8"))
    assert content["metric"] == "der" and content["der"] == pytest.approx(0.2)
    assert (content["miss"], content["false_alarm"], content["confusion"]) == pytest.approx((0.1, 0.1, 0))
    assert [row["recording"] for row in content["recordings"]] == ["m", "n"]
    assert len(Path("der.txt").read_text(encoding="utf-8").splitlines()) == 5
    assert "overall" in capsys.readouterr().out
    main("der --ref r.rttm --hyp h.rttm --uem m.uem".split())
    assert "scored regions: uem" in capsys.readouterr().out


def test_recordings_that_only_the_uem_names_are_scored(folder: Path) -> None:
    Path("q.uem").write_text("m 1 0 5\nn 1 0 6\nq 1 0 10\n")
    Path("s.rttm").write_text("SPEAKER s 1 0 4 <NA> <NA> 1 <NA> <NA>\n")
    for extra in ("--hyp h.rttm other.rttm", "--hyp h.rttm other.rttm s.rttm --extra ignore"):
        main(f"der --ref r.rttm --uem q.uem --json der.json {extra}".split())
        assert json.loads(Path("der.json").read_text())["false_alarm_time"] == pytest.approx(1 + 4)


BAD = [
    "wer --ref nowhere --hyp hyp",
    "wer --ref . --hyp hyp",
    "wer --ref binary --hyp hyp",
    "wer --ref ref --hyp short",
    "wer --ref ref --hyp long",
    "wer --ref silent --hyp silent",
    "wer --ref none.rttm --hyp hyp",
    "wer --ref ref --hyp trn --hyp-format trn",
    "wer --ref ref --hyp hyp --hyp-format stm",
    "wer --ref ref --hyp hyp --hyp-format cuts",
    "wer --ref ref --hyp hyp --utt2spk ref",
    "wer --ref ref --hyp hyp --baseline short",
    "wer --ref ref --hyp hyp --replications 0",
    "wer --ref ref --hyp hyp --seed -1",
    "wer --ref ref --hyp hyp --json ref/wer.json",
    "eer --trials ref --scores scores",
    "eer --trials trials --scores few",
    "eer --trials trials --scores words",
    "eer --trials targets --scores scores",
    "eer --scores scores",
    "eer --trials trials --scores scores --p-target 1.5",
    "eer --trials trials --scores scores --c-miss 0",
    "eer --trials trials --scores scores --utt2spk utt2spk",
    "der --ref r.rttm --hyp bad.rttm",
    "der --ref r.rttm --hyp other.rttm",
    "der --ref r.rttm --hyp h.rttm other.rttm --uem m.uem",
    "der --ref none.rttm --hyp none.rttm",
    "der --ref r.rttm --hyp h.rttm --uem bad.uem",
    "der --ref r.rttm --hyp h.rttm --collar -1",
    "der --ref r.rttm nowhere.rttm --hyp h.rttm",
]


@pytest.mark.parametrize("command", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(lambda: main(command.split()))
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert len(message.splitlines()) == 1 and "error: " in message and "Traceback" not in message


def test_the_line_is_named_from_the_shell_too(folder: Path) -> None:
    command = [sys.executable, "-m", "toolkit.bin.score", "eer", "--trials", "trials", "--scores", "few"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(root)}, check=False)
    assert done.returncode == 2
    assert (
        done.stderr == "score: error: trials:3: found the trial 'b c', which has no score in few (2 such)\n"
    )
    page = (root / "docs" / "scoring.md").read_text(encoding="utf-8")
    assert f"    {done.stderr.replace('in few', 'in scores')}" in page


def test_the_room_imports_nothing_heavy_and_nothing_of_the_toolkit(folder: Path) -> None:
    code = (
        "import sys, toolkit.score; assert 'numpy' not in sys.modules; "
        "import toolkit.score.wer, toolkit.score.eer, toolkit.score.der, toolkit.score.matching; "
        "rooms = {name.split('.')[1] for name in sys.modules if name.startswith('toolkit.')}; "
        "assert rooms == {'score'}, rooms; assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(root)}, check=True)
