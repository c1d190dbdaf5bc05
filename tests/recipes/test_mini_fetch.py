"""The stage of egs/mini that fetches recordings, from stand-ins for apt and the upstream server."""

import errno
import gzip
import hashlib
import io
import lzma
import tarfile
from pathlib import Path

import pytest

from tests.recipes.made_up import WORDS, g722, made_up
from toolkit.errors import UserError


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def deb_of(content: bytes) -> bytes:
    """A Debian package: an `ar` archive of three members."""
    control = io.BytesIO()
    with tarfile.open(fileobj=control, mode="w:gz"):
        pass
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": control.getvalue(),
        "data.tar.xz": lzma.compress(content, preset=0),
    }
    packed = b"!<arch>\n"
    for name, body in members.items():
        packed += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n".encode()
            + body
            + b"\n" * (len(body) % 2)
        )
    return packed


def debian_packages(language: str, sounds: dict[str, bytes], text: str) -> dict[str, bytes]:
    """The two packages of a language, by file name."""
    name, place = f"asterisk-core-sounds-{language}", f"./usr/share/asterisk/sounds/{language}_XX"
    files = {f"{place}/{key}.g722": sound for key, sound in sounds.items()}
    papers = {
        f"./usr/share/doc/{name}/core-sounds-{language}.txt.gz": gzip.compress(text.encode()),
        f"./usr/share/doc/{name}/changelog.gz": b"",
    }
    copyright = f"who spoke {language}".encode()
    return {
        f"{name}-g722_1_all.deb": deb_of(
            tar_of({**files, f"./usr/share/doc/{name}-g722/copyright": copyright})
        ),
        f"{name}_1_all.deb": deb_of(tar_of({**papers, f"./usr/share/doc/{name}/copyright": copyright})),
    }


def upstream_archive(language: str, sounds: dict[str, bytes], text: str) -> bytes:
    """The tarball of a language."""
    papers = {kind: f"{kind}-asterisk-core-{language}" for kind in ("CHANGES", "CREDITS", "LICENSE")}
    files = {f"{key}.g722": sound for key, sound in sounds.items()}
    files |= {f"core-sounds-{language}.txt": text.encode()}
    return gzip.compress(tar_of({**files, **{name: kind.encode() for kind, name in papers.items()}}))


@pytest.fixture(scope="module")
def sources(local, tmp_path_factory) -> Path:
    """A folder with packages, tarballs and checksums of the made-up corpus."""
    folder = tmp_path_factory.mktemp("sources")
    checksums = ["# made up"]
    for language in WORDS:
        sounds, text = made_up(language)
        listing = "".join(
            f"{hashlib.sha256(sounds[key]).hexdigest()}  {key}.g722\n"
            for key in sorted(sounds, key=lambda key: f"{key}.g722")
        )
        checksums.append(f"{hashlib.sha256(listing.encode()).hexdigest()}  sounds-{language}")
        checksums.append(f"{hashlib.sha256(text.encode()).hexdigest()}  transcripts-{language}")
        for name, package in debian_packages(language, sounds, text).items():
            (folder / name).write_bytes(package)
            checksums.append(f"{hashlib.sha256(package).hexdigest()}  {name}")
        archive = f"asterisk-core-sounds-{language}-g722-{local.corpus.VERSION}.tar.gz"
        (folder / archive).write_bytes(upstream_archive(language, sounds, text))
    (folder / "checksums.txt").write_text("\n".join(checksums) + "\n")
    return folder


@pytest.fixture()
def apt(local, sources, tmp_path, monkeypatch):
    """An apt-get that copies from a folder, and fails for the first time if asked to."""
    monkeypatch.setattr(local.fetch, "CHECKSUMS", sources / "checksums.txt")
    monkeypatch.setattr(
        local.fetch, "UPSTREAM", f"file://{sources}/asterisk-core-sounds-{{}}-g722-{{}}.tar.gz"
    )
    tools = tmp_path / "tools"
    tools.mkdir()
    script = tools / "apt-get"

    def install(body: str) -> None:
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")

    install(
        f'for name; do case $name in asterisk*) cp {sources}/"$name"_1_all.deb . || exit 100;; esac; done'
    )
    return install


def check_fetched(data: Path, source: str) -> None:
    assert (data / "source.txt").read_text() == f"{source}\n"
    for language in WORDS:
        folder = data / "raw" / language
        sounds, text = made_up(language)
        papers = {"copyright": f"who spoke {language}"}
        if source == "upstream":
            papers = {f"{kind}-asterisk-core-{language}": kind for kind in ("CREDITS", "LICENSE")}
        expected = {f"sounds/{key}.g722": content for key, content in sounds.items()}
        expected |= {name: said.encode() for name, said in papers.items()} | {
            "transcripts.txt": text.encode()
        }
        found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        assert {name: path.read_bytes() for name, path in found.items()} == expected
    assert not (data / "download").exists()


@pytest.fixture(params=[True, False], ids=["dpkg", "no dpkg"])
def dpkg(request, local, monkeypatch):
    """With dpkg-deb, and without."""
    if not request.param:
        which = local.fetch.shutil.which
        monkeypatch.setattr(
            local.fetch.shutil, "which", lambda name: None if name == "dpkg-deb" else which(name)
        )


@pytest.mark.usefixtures("dpkg")
def test_fetch_from_debian(local, apt, tmp_path, capsys):
    local.fetch.main(["--data", str(tmp_path / "data")])
    check_fetched(tmp_path / "data", "debian")
    assert "download of 10 packages" in capsys.readouterr().out
    apt("exit 1")
    local.fetch.main(["--data", str(tmp_path / "data")])  # nothing is left to download
    check_fetched(tmp_path / "data", "debian")


def test_fetch_with_lists_of_its_own(local, apt, sources, tmp_path, capsys):
    flag = tmp_path / "updated"
    apt(
        f"""
        case "$*" in *update*) touch {flag}; exit;; esac
        [ -e {flag} ] || {{ echo no lists >&2; exit 100; }}
        for name; do case $name in asterisk*) cp {sources}/"$name"_1_all.deb .;; esac; done
        """
    )
    local.fetch.main(["--data", str(tmp_path / "data"), "--source", "debian"])
    check_fetched(tmp_path / "data", "debian")
    said = capsys.readouterr().out
    assert "apt-get: no lists" in said and "package lists of our own" in said


def test_fetch_from_upstream_where_apt_fails(local, apt, tmp_path, capsys):
    apt("echo no network >&2; exit 100")
    local.fetch.main(["--data", str(tmp_path / "data")])
    check_fetched(tmp_path / "data", "upstream")
    assert "debian: apt-get cannot download the packages" in capsys.readouterr().out


@pytest.mark.usefixtures("dpkg")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda package: b"",
        lambda package: b"<html>moved</html>" * 99,
        lambda package: package[: len(package) // 2],
        lambda package: package[:-1000] + bytes(1000),
    ],
    ids=["empty", "text", "start", "zeros at the end"],
)
def test_a_damaged_package_is_fetched_again(local, apt, sources, tmp_path, spoil, capsys):
    download = tmp_path / "data" / "download"
    download.mkdir(parents=True)
    name = "asterisk-core-sounds-fr-g722_1_all.deb"
    (download / name).write_bytes(spoil((sources / name).read_bytes()))
    local.fetch.main(["--data", str(tmp_path / "data"), "--source", "debian"])
    check_fetched(tmp_path / "data", "debian")
    assert capsys.readouterr().out.count(f"{name} is damaged (") == 1


@pytest.mark.usefixtures("dpkg")
def test_packages_that_stay_damaged(local, apt, tmp_path, capsys):
    apt('for name; do case $name in asterisk*) echo moved > "$name"_1_all.deb;; esac; done')
    local.fetch.main(["--data", str(tmp_path / "data")])
    check_fetched(tmp_path / "data", "upstream")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("fetch: debian:"))
    assert "asterisk-core-sounds-en_1_all.deb is damaged (" in line and "after another download" in line


def test_a_damaged_archive_is_fetched_again(local, apt, sources, tmp_path, capsys):
    download = tmp_path / "data" / "download"
    download.mkdir(parents=True)
    name = f"asterisk-core-sounds-fr-g722-{local.corpus.VERSION}.tar.gz"
    (download / name).write_bytes((sources / name).read_bytes()[:-500])
    local.fetch.main(["--data", str(tmp_path / "data"), "--source", "upstream"])
    check_fetched(tmp_path / "data", "upstream")
    assert capsys.readouterr().out.count(f"{name} is damaged (") == 1


def test_recordings_of_one_source_are_not_counted_with_those_of_another(
    local, apt, sources, tmp_path, capsys
):
    """Debian has a prompt more than the checksums know, upstream has not."""
    newer = tmp_path / "newer"
    newer.mkdir()
    for path in sources.glob("*.deb"):
        (newer / path.name).write_bytes(path.read_bytes())
    sounds, text = made_up("it")
    for name, package in debian_packages("it", {**sounds, "one-more": g722(1.0, 99)}, text).items():
        (newer / name).write_bytes(package)
    apt(f'for name; do case $name in asterisk*) cp {newer}/"$name"_1_all.deb . || exit 100;; esac; done')
    local.fetch.main(["--data", str(tmp_path / "data"), "--source", "auto"])
    said = capsys.readouterr().out
    assert "debian: the recordings in 'it' are not those of checksums.txt" in said
    assert (tmp_path / "data" / "source.txt").read_text() == "upstream\n"
    assert not (tmp_path / "data/raw/it/sounds/one-more.g722").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("source", ["debian", "upstream"])
def test_a_full_disk_is_no_damage(local, apt, tmp_path, monkeypatch, capsys, source, number):
    def full(*_):
        raise OSError(number, "no room")

    monkeypatch.setattr(local.fetch.Path, "write_bytes", full)
    with pytest.raises(OSError, match="no room") as caught:
        local.fetch.main(["--data", str(tmp_path / "data"), "--source", source])
    assert caught.value.errno == number and caught.value.filename.startswith(str(tmp_path / "data/raw/en"))
    assert any((tmp_path / "data" / "download").glob("asterisk-core-sounds-en-g722*"))
    assert "damaged" not in capsys.readouterr().out and not (tmp_path / "data" / "source.txt").exists()


def test_fetch_goes_on_with_espeak_where_nothing_can_be_reached(local, apt, tmp_path, monkeypatch, capsys):
    apt("exit 100")
    monkeypatch.setattr(local.fetch, "UPSTREAM", "file:///nowhere/{}-{}.tar.gz")
    local.fetch.main(["--data", str(tmp_path / "data")])
    assert local.corpus.read_source(tmp_path / "data") == "espeak"
    said = capsys.readouterr().out
    assert "synthetic voices (espeak-ng) alone" in said and "`run.sh --force fetch` tries again" in said
    monkeypatch.setenv("TOOLKIT_MINI_SOURCE", "moon")  # the recipe's run.sh reads it, not the script
    local.fetch.main(["--data", str(tmp_path / "data"), "--source", "espeak"])
    assert "tries again" not in capsys.readouterr().out
    with pytest.raises(UserError, match="--source upstream: the recordings could not be fetched"):
        local.fetch.main(["--data", str(tmp_path / "data"), "--source", "upstream"])


def test_fetch_refuses_other_recordings(local, apt, sources, tmp_path, monkeypatch, capsys):
    changed = (sources / "checksums.txt").read_text().replace(
        "sounds-fr", "sounds-xx"
    ) + f"{'0' * 64}  sounds-fr\n"
    (tmp_path / "checksums.txt").write_text(changed)
    monkeypatch.setattr(local.fetch, "CHECKSUMS", tmp_path / "checksums.txt")
    with pytest.raises(UserError):
        local.fetch.main(["--data", str(tmp_path / "data"), "--source", "debian"])
    assert "the recordings in 'fr' are not those of checksums.txt" in capsys.readouterr().out


def test_real_checksums_are_complete(local):
    known = local.fetch.read_checksums()
    assert {f"{kind}-{language}" for kind in ("sounds", "transcripts") for language in WORDS} <= set(known)
    assert len(known) == 20 and all(len(digest) == 64 for digest in known.values())
