"""Fetches the recordings: Asterisk's core sounds from Debian, else from the upstream project, else none.

Whatever the source, the recordings of every language must have the checksum in checksums.txt. The texts about
their licence and the people they are owed to are kept beside them. Where neither source can be reached,
`source.txt` says "espeak" and the recipe goes on with synthetic voices alone.
"""

import argparse
import gzip
import hashlib
import http.client
import io
import lzma
import shutil
import subprocess
import tarfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from corpus import LANGUAGES, SOURCES, VERSION, sounds_folder, transcripts_file

from toolkit.bin import run
from toolkit.errors import UserError
from toolkit.files import atomic_write

CHECKSUMS = Path(__file__).with_name("checksums.txt")
UPSTREAM = (
    "https://downloads.asterisk.org/pub/telephony/sounds/releases/asterisk-core-sounds-{}-g722-{}.tar.gz"
)
DAMAGE = (tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, ValueError)
"""What reading a damaged archive raises. A disk that is full raises other kinds of OSError, which end the command."""


class NotFetched(Exception):
    """A source that cannot be used, and why."""


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--data", type=Path, required=True, help="data folder of the recipe")
    result.add_argument(
        "--source",
        choices=("auto", *SOURCES),
        default="auto",
        help="where from (default: auto, the first that works)",
    )
    return result


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    for source in SOURCES if args.source == "auto" else (args.source,):
        try:
            fetch(source, args.data)
            break
        except NotFetched as error:
            print(f"fetch: {source}: {error}", flush=True)
    else:
        raise UserError(f"--source {args.source}: the recordings could not be fetched from there, see above")
    with atomic_write(args.data / "source.txt") as file:
        file.write(source + "\n")
    if source == "espeak":
        print("fetch: no real recordings; everything that follows uses synthetic voices (espeak-ng) alone")
        if args.source == "auto":
            print("fetch: `run.sh --force fetch` tries again")


def fetch(source: str, data: Path) -> None:
    """Makes the recordings of all languages present under `data`, or raises NotFetched."""
    if source == "espeak":
        return
    known = read_checksums()
    missing = [language for language in LANGUAGES if not is_complete(data, language, known)]
    for folder in (language_folder(data, language) for language in missing):
        if folder.exists():
            # What another source left there would be counted with the recordings of this one.
            shutil.rmtree(folder)
    if missing:
        download = data / "download"
        download.mkdir(parents=True, exist_ok=True)
        (from_debian if source == "debian" else from_upstream)(missing, data, download, known)
    for language in LANGUAGES:
        if not is_complete(data, language, known):
            raise NotFetched(f"the recordings in {language!r} are not those of checksums.txt")
    shutil.rmtree(data / "download", ignore_errors=True)
    print(f"fetch: recordings in {', '.join(LANGUAGES)} are complete ({source}, checksums agree)", flush=True)


def language_folder(data: Path, language: str) -> Path:
    """Where all that is fetched of a language lies."""
    return sounds_folder(data, language).parent


def read_checksums() -> dict[str, str]:
    """Name to SHA-256, from checksums.txt."""
    lines = CHECKSUMS.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines if not line.startswith("#"))}


def is_complete(data: Path, language: str, known: dict[str, str]) -> bool:
    """Whether the recordings of a language are there, byte for byte, and transcripts with them."""
    sounds, transcripts = sounds_folder(data, language), transcripts_file(data, language)
    if not transcripts.is_file() or folder_digest(sounds) != known[f"sounds-{language}"]:
        return False
    if hashlib.sha256(transcripts.read_bytes()).hexdigest() != known[f"transcripts-{language}"]:
        print(
            f"fetch: {transcripts} is not the one in checksums.txt; figures may differ a little", flush=True
        )
    return True


def folder_digest(folder: Path) -> str:
    """SHA-256 of the sorted lines "<sha256>  <path>", one a file."""
    lines = (
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in sorted(folder.rglob("*.g722"), key=lambda path: path.relative_to(folder).as_posix())
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def from_debian(languages: list[str], data: Path, download: Path, known: dict[str, str]) -> None:
    if not shutil.which("apt-get"):
        raise NotFetched("no apt-get here")
    names = [f"asterisk-core-sounds-{language}{part}" for language in languages for part in ("", "-g722")]
    print(f"fetch: apt-get download of {len(names)} packages (about {11 * len(languages)} MB)", flush=True)
    download_packages(names, download)
    for name in names:
        package = unpack_whole(
            partial(find_package, name, download), debian_archive, name.split("-")[3], data
        )
        if hashlib.sha256(package.read_bytes()).hexdigest() != known.get(package.name):
            print(
                f"fetch: {package.name} is not the one in checksums.txt; its content will be compared",
                flush=True,
            )


def unpack_whole(
    obtain: Callable[[], Path], archive_of: Callable[[Path], bytes], language: str, data: Path
) -> Path:
    """Unpacks the tar archive in a file; one that is damaged is removed and obtained again, once."""
    for _ in range(2):
        path = obtain()
        try:
            unpack(archive_of(path), language, data)
            return path
        except DAMAGE as error:
            reason = f"{path.name} is damaged ({(str(error) or 'it is empty').splitlines()[0]})"
            print(f"fetch: {reason}", flush=True)
            path.unlink()
    raise NotFetched(f"{reason}, and again after another download")


def find_package(name: str, folder: Path) -> Path:
    """The file of a package; downloaded unless it is in the folder."""
    download_packages([name], folder)
    return next(folder.glob(f"{name}_*.deb"))


def download_packages(names: list[str], folder: Path) -> None:
    """Downloads those of the packages that are not in the folder."""
    if not apt_download(names, folder, ()):
        print("fetch: trying again with package lists of our own", flush=True)
        state = (folder / "apt").absolute()
        for part in ("lists/partial", "cache/archives/partial"):
            (state / part).mkdir(parents=True, exist_ok=True)
        own = ("-o", f"Dir::State::Lists={state}/lists", "-o", f"Dir::Cache={state}/cache")
        if not (apt(["update"], folder, own) and apt_download(names, folder, own)):
            raise NotFetched("apt-get cannot download the packages")


def apt_download(names: list[str], folder: Path, options: tuple[str, ...]) -> bool:
    present = [name for name in names if any(folder.glob(f"{name}_*.deb"))]
    wanted = [name for name in names if name not in present]
    return not wanted or apt(["download", *wanted], folder, options)


def apt(arguments: list[str], folder: Path, options: tuple[str, ...]) -> bool:
    # As root, apt would hand downloads to a user who may not write to our folder.
    common = ("-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=30")
    command = ["apt-get", "-q", *common, *options, *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        print("fetch: apt-get took more than 10 minutes", flush=True)
        return False
    if done.returncode:
        print(
            "\n".join(f"fetch: apt-get: {line}" for line in done.stderr.strip().splitlines()[-3:]), flush=True
        )
    return done.returncode == 0


def debian_archive(package: Path) -> bytes:
    """The tar archive inside a Debian package, uncompressed."""
    if shutil.which("dpkg-deb"):
        done = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True)
        if done.returncode:
            raise tarfile.ReadError(done.stderr.decode(errors="replace"))
        return done.stdout
    openers = {"data.tar": bytes, "data.tar.gz": gzip.decompress, "data.tar.xz": lzma.decompress}
    names = []
    for name, content in ar_members(package.read_bytes()):
        if name in openers:
            return openers[name](content)
        names.append(name)
    if "data.tar.zst" in names:
        raise NotFetched(f"{package.name}: needs dpkg-deb to unpack")
    raise tarfile.ReadError(f"no data.tar in it, only {', '.join(names) or 'nothing'}")


def ar_members(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of each member of a Unix `ar` archive: a header of 60 bytes, then the content."""
    offset = 8
    while offset + 60 <= len(content):
        header = content[offset : offset + 60]
        size = int(header[48:58])
        yield header[:16].decode().strip().rstrip("/"), content[offset + 60 : offset + 60 + size]
        offset += 60 + size + size % 2


def from_upstream(languages: list[str], data: Path, download: Path, known: dict[str, str]) -> None:
    for language in languages:
        url = UPSTREAM.format(language, VERSION)
        print(f"fetch: {url}", flush=True)
        unpack_whole(partial(download_file, url, download), gunzip, language, data)


def gunzip(path: Path) -> bytes:
    """What a gzip file holds."""
    return gzip.decompress(path.read_bytes())


def download_file(url: str, folder: Path) -> Path:
    """The file of that address; downloaded unless it is in the folder."""
    target = folder / url.rpartition("/")[2]
    if target.is_file():
        return target
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NotFetched(f"cannot reach it ({getattr(error, 'reason', error)})") from None
    with atomic_write(target, "wb") as file:
        file.write(content)
    return target


def unpack(packed: bytes, language: str, data: Path) -> None:
    """Takes the G.722 files, the transcripts, and what is said of rights and people out of a tar archive.

    Names are rebuilt, not trusted: only a file name and one of the known sub-folders above it are kept.
    """
    subfolders = ("dictate", "digits", "followme", "letters", "phonetic", "silence")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            parts = Path(member.name).parts
            if not member.isfile():
                continue
            content = archive.extractfile(member).read()
            if parts[-1].endswith(".g722"):
                kept = parts[-2:] if len(parts) > 1 and parts[-2] in subfolders else parts[-1:]
                target = sounds_folder(data, language).joinpath(*kept)
            elif parts[-1] in (f"core-sounds-{language}.txt", f"core-sounds-{language}.txt.gz"):
                target = transcripts_file(data, language)
                content = gzip.decompress(content) if parts[-1].endswith(".gz") else content
            elif parts[-1] == "copyright" or parts[-1].startswith(("LICENSE", "CREDITS")):
                target = language_folder(data, language) / parts[-1]
            else:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.write_bytes(content)
            except OSError as error:
                error.filename = str(target)
                raise


if __name__ == "__main__":
    run(main)
