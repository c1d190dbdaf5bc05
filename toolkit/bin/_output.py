"""Where commands may write folders of their own."""

from pathlib import Path

from toolkit.errors import UserError


def check_new(folder: Path) -> None:
    """Keeps a command out of a folder that holds something.

    Raises:
        UserError: it does, or it is a file.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        found = (
            "a file" if folder.is_file() else ", ".join(sorted(path.name for path in folder.iterdir())[:3])
        )
        raise UserError(f"{folder}: found {found}, expected a new folder to write")
