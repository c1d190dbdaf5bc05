"""What every section needs: files by the paths of a description, and numbered pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from toolkit.report import page, style
from toolkit.report.description import Places


@dataclass
class Canvas:
    """Where a section draws: finds files, remembers the missing ones, numbers the pictures."""

    places: Places
    name: str
    drawn: int = 0
    missing: list[str] = field(default_factory=list)

    def find(self, *paths: str) -> list[Path] | None:
        """The paths on disk, or None if one of them is not there."""
        found = [self.places(path) for path in paths]
        absent = [path for path, place in zip(paths, found, strict=True) if not place.exists()]
        self.missing += absent
        return None if absent else found

    def find_each(self, paths: Mapping[str, str]) -> dict[str, Path]:
        """Name -> path on disk, without those that are not there."""
        found = {name: self.find(path) for name, path in paths.items()}
        return {name: place[0] for name, place in found.items() if place}

    def picture(self, figure: Figure, label: str, caption: str = "", below: str = "") -> str:
        """A figure as HTML.

        Args:
            figure: what was drawn.
            label: what it shows, for readers who do not see it.
            caption: below the picture.
            below: HTML between the picture and the caption.
        """
        self.drawn += 1
        svg = style.to_svg(figure, f"{self.name}-{self.drawn}", label)
        return page.figure(svg, caption, wide=figure.get_figwidth() > style.PANEL, below=below)
