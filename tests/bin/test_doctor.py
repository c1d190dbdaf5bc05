"""The doctor: what it finds, how it says what is missing, when it fails."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from toolkit.bin import doctor
from toolkit.errors import UserError
from toolkit.requirements import REQUIRED, Requirement, check


def test_all_is_well_here(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    doctor.main(
        ["--exp", str(tmp_path / "exp"), "--data", str(tmp_path), "--json", str(tmp_path / "all.json")]
    )
    text = capsys.readouterr().out
    findings = {row["part"]: row for row in json.loads((tmp_path / "all.json").read_text())["findings"]}
    assert {row["part"] for row in findings.values() if row["required"]} == {part.name for part in check()}
    for part, row in findings.items():
        assert row["state"] in ("OK", "missing", "wrong", "low")
        assert part in text and row["note"] in text
    assert findings["k2"]["state"] == "OK" or "tools/install_k2.sh" in findings["k2"]["note"]


def test_missing_and_untested_versions_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    parts = [
        Requirement("nowhere", ">=1", "nothing", None, False),
        Requirement("torch", ">=9,<10", "all", "2.11.0", False),
    ]
    monkeypatch.setattr(doctor, "check", lambda extra=None: [] if extra else parts)
    with pytest.raises(UserError, match="nowhere, torch"):
        doctor.main([])
    text = capsys.readouterr().out
    assert "missing" in text and "get it: pip install -e ." in text
    assert "wrong" in text and "tested: >=9,<10" in text


def test_missing_optional_part_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Requirement("nowhere", ">=1", "nothing", None, False)
    monkeypatch.setattr(doctor, "check", lambda extra=None: [part] if extra == "k2" else [])
    doctor.main([])


def test_a_package_that_does_not_import_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "broken_part-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-part\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("broken_part\n")
    (tmp_path / "broken_part.py").write_text("raise OSError('libnothing.so: cannot open')\n")
    monkeypatch.syspath_prepend(tmp_path)
    part = Requirement("broken-part", ">=1", "nothing", "1.0", True)
    monkeypatch.setattr(doctor, "check", lambda extra=None: [] if extra else [part])
    (finding,) = doctor.packages()
    assert finding.state == "wrong"
    assert "libnothing.so: cannot open" in finding.note


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    gpu = SimpleNamespace(name="Some GPU", major=7, minor=5, total_memory=16e9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    found = {finding.part: finding for finding in doctor.devices()}
    assert found["cuda:0"].found == "Some GPU, 16 GB, sm_75, no bf16 (use fp16)"
    assert found["NCCL"].state in ("OK", "missing")


def test_low_limits_are_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9, total=1e8))
    monkeypatch.setattr(doctor, "check", lambda extra=None: [])
    found = {finding.part: finding for finding in doctor.limits([tmp_path / "not" / "there"])}
    assert found[f"disk for {tmp_path / 'not' / 'there'}"].state == "low"
    assert found["memory"].state in ("OK", "low")
    doctor.main([])


def test_check_knows_what_is_installed() -> None:
    found = check()
    assert len(found) == len(REQUIRED)
    torch = next(part for part in found if part.name == "torch")
    assert torch.ok and torch.installed.startswith("2.11")
