"""Atomic files and JSON lines."""

import errno
import gzip
import os

import pytest

from toolkit import files
from toolkit.errors import UserError
from toolkit.files import atomic_write, read_json, read_jsonl, write_json, write_jsonl


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as file:
        file.write("ä\n")
        assert not path.exists()
    assert path.read_bytes() == b"\xc3\xa4\n"
    with pytest.raises(RuntimeError, match="half way"), atomic_write(path) as file:
        file.write("other")
        raise RuntimeError("half way")
    assert path.read_bytes() == b"\xc3\xa4\n"
    assert os.listdir(path.parent) == ["a.txt"]


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_equal_content_gives_equal_bytes(tmp_path):
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_jsonl(tmp_path / name, [{"x": "ä"}, {"y": 1}])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert list(read_jsonl(tmp_path / "a.jsonl.gz")) == [{"x": "ä"}, {"y": 1}]


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"kept": True})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device: '.*a.json'"):
        write_json(tmp_path / "a.json", {"kept": False})
    assert read_json(tmp_path / "a.json") == {"kept": True}
    assert os.listdir(tmp_path) == ["a.json"]


def test_other_modes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="mode must be"), atomic_write(tmp_path / "a", "a"):
        raise AssertionError("the body must not be reached")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n\n{"a": \n', "a.jsonl:3: not JSON"),
        ("a.jsonl", b'{"a": 1}\n\xff\xfe\n', "damaged or not a text file"),
        ("a.jsonl.gz", b'{"a": 1}\n', "a.jsonl.gz:1: damaged or not a text file"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99)[:-12], "damaged or not a text file"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n')[:12] + b"\xff" * 30, "damaged or not a text file"),
    ],
)
def test_damaged_lines(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_jsonl(tmp_path / name))


def test_damaged_json(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1,\n "b": }')
    with pytest.raises(UserError, match="a.json:2: not JSON"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xff")
    with pytest.raises(UserError, match="not a UTF-8 text file"):
        read_json(tmp_path / "a.json")
    for read in (read_json, lambda path: list(read_jsonl(path))):
        with pytest.raises(UserError, match="none: no such file"):
            read(tmp_path / "none")
