"""Small helpers for files: atomic writing and JSON lines."""

import gzip
import json
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from toolkit.errors import UserError


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Opens a temporary file beside `path`; on success it is flushed to disk and renamed to `path`.

    If the body raises, or the process dies, `path` keeps what it held before.

    Args:
        path: the file to write; missing parent folders are made. A name that ends in ".gz" is compressed.
        mode: "w" for UTF-8 text or "wb" for bytes.

    Raises:
        OSError: it cannot be written, the disk being full, say; the error names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = str(path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"))
    try:
        with open(name, "xb") as raw:
            if path.suffix == ".gz":
                # No name and no time in the header, so that equal content gives equal bytes.
                with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
                    yield from _as_mode(packed, mode)
            else:
                yield from _as_mode(raw, mode)
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(name, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename in (None, name):
            error.filename, error.filename2 = str(path), None
        if os.path.exists(name):
            os.unlink(name)
        raise


def _as_mode(raw: IO[bytes], mode: str) -> Iterator[IO]:
    if mode == "wb":
        yield raw
    elif mode == "w":
        import io

        text = io.TextIOWrapper(raw, encoding="utf-8", newline="\n")
        yield text
        text.flush()
        text.detach()
    else:
        raise ValueError(f"mode must be 'w' or 'wb', got {mode!r}")


def read_lines(path: str | Path, expected: str) -> Iterator[str]:
    """Yields the lines of a text file, however long it is, without their ends; ".gz" names are unpacked.

    Raises:
        UserError: missing, or, with file and line, not UTF-8 or not whole.
    """
    path, number = Path(path), 0
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected {expected}")
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            for line in file:
                number += 1
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start} of the line), expected {expected}"
        ) from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}:{number + 1}: damaged gzip file ({error})") from None


def write_json(path: str | Path, content: Any) -> None:
    """Writes one JSON document, indented, atomically."""
    with atomic_write(path) as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_text(path: str | Path, expected: str) -> str:
    """Reads a text file; raises UserError that says what was expected if it is missing or not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, expected {expected}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a UTF-8 text file, expected {expected}") from None


def read_json(path: str | Path) -> Any:
    """Reads one JSON document; raises UserError with file and line if it is missing or malformed."""
    try:
        return json.loads(read_text(path, "JSON"))
    except RecursionError:
        raise UserError(f"{path}: nested too deeply, expected JSON") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Writes one JSON object a line, atomically; ".gz" names are compressed."""
    with atomic_write(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: str | Path) -> Iterator[dict]:
    """Yields one JSON object a line; raises UserError with file and line number on a malformed one."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for line in file:
                number += 1
                if line.strip():
                    yield json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{number}: not JSON ({error.msg})") from None
    except (gzip.BadGzipFile, zlib.error, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}:{number + 1}: damaged or not a text file ({error})") from None
