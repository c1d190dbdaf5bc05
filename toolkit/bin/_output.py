"""Where commands may write folders of their own, and how they count in what they print."""

from pathlib import Path

from toolkit.errors import UserError


def counted(number: int, noun: str) -> str:
    """ "1 cut", "2 cuts"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def check_new(folder: Path) -> None:
    """Keeps a command out of a folder that holds something; hidden files, such as a lock, do not count.

    Raises:
        UserError: it does, or it is a file.
    """
    if folder.is_file():
        raise UserError(f"{folder}: found a file, expected a new folder to write")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if shown := [name for name in names if not name.startswith(".")]:
        raise UserError(f"{folder}: found {', '.join(shown[:3])}, expected a new folder to write")
