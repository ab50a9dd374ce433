"""Draws a confusion matrix as inline SVG, with text of the browser's fonts for all scripts."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from unicodedata import combining, east_asian_width

from markupsafe import Markup

from mobilenas.report.plots import COLOURS

RIGHT, WRONG = COLOURS[1], COLOURS[0]
SHADES = 20
"""Number of opacity levels of a square."""

_LETTERS = 16
_FONT = 11
_LETTER = 0.65 * _FONT
"""Width of a digit or lower-case letter, in SVG units."""
_WIDTHS = dict.fromkeys("mMwW@%&", 1.6) | dict.fromkeys("<>+=~#", 1.3)
"""Widths of wider characters relative to that, in the wide fonts of common systems."""
_CAPITAL, _CHINESE = 1.3, 2.0
_GAP = 5
_SMALLEST, _LARGEST, _SIDE = 14, 26, 300
"""SVG units: sides of the smallest and largest square, and of the matrix in between."""


def confusion_drawing(confusion: Mapping[str, Mapping[str, int]], labels: Sequence[str]) -> Markup:
    """Draw a square per pair: its opacity is the share of the class's images.

    Correct ones have another colour. The largest share of a wrong class is opaque, because
    otherwise rare mistakes would be invisible.
    """
    largest = largest_wrong_share(confusion, labels) or 1
    side = min(_LARGEST, max(_SMALLEST, _SIDE // len(labels)))
    names = [shortened(label) for label in labels]
    room = _GAP + max(map(_width, names)) * _LETTER
    size = room + side * len(labels)
    squares: list[str] = []
    words: list[str] = []
    for row, label in enumerate(labels):
        counts = confusion.get(label, {})
        images = sum(counts.values()) or 1
        shares = [counts.get(name, 0) / images for name in labels]
        depths = [
            (place == row, round(SHADES * (share if place == row else share / largest)))
            for place, share in enumerate(shares)
        ]
        squares += _row(depths, room, room + side * row, side)
        middle = room + side * (row + 0.5)
        words += _words(names[row], label, room - _GAP, middle)
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{size:.0f}" '
        f'height="{size:.0f}" viewBox="0 0 {size:.0f} {size:.0f}" font-size="{_FONT}" '
        f'font-family="system-ui, sans-serif" fill="currentColor" '
        f'aria-label="Confusion matrix of the test images">\n'
        f'<rect x="{room:.1f}" y="{room:.1f}" width="{side * len(labels)}" '
        f'height="{side * len(labels)}" opacity="0.06"/>\n'
        + "\n".join((*squares, *words))
        + "\n</svg>"
    )


def largest_wrong_share(confusion: Mapping[str, Mapping[str, int]], labels: Sequence[str]) -> float:
    """Return the largest share of a class's images that is predicted as one other class."""
    return max(
        (
            counts.get(name, 0) / (sum(counts.values()) or 1)
            for label, counts in confusion.items()
            for name in labels
            if name != label
        ),
        default=0.0,
    )


def shortened(name: str) -> str:
    """Shorten a name to the width of at most `_LETTERS` letters."""
    if _width(name) <= _LETTERS:
        return name
    kept, width = "", 1.6  # of the ellipsis
    for char in name:
        width += _width(char)
        if width > _LETTERS:
            break
        kept += char
    return f"{kept}\N{HORIZONTAL ELLIPSIS}"


def _width(name: str) -> float:
    return sum(0 if combining(char) else _letter_width(char) for char in name)


def _letter_width(char: str) -> float:
    if east_asian_width(char) in "WF":
        return _CHINESE
    return _WIDTHS.get(char, _CAPITAL if char.isupper() else 1.0)


def _row(depths: Sequence[tuple[bool, int]], x: float, y: float, side: int) -> list[str]:
    """Return the squares of a row; equal neighbours are one rectangle, empty ones are omitted."""
    found, place = [], 0
    for (right, depth), run in groupby(depths):
        count = len(list(run))
        if depth:
            found.append(
                f'<rect x="{x + side * place:.1f}" y="{y:.1f}" width="{side * count}" '
                f'height="{side}" fill="{RIGHT if right else WRONG}" '
                f'opacity="{min(1.0, depth / SHADES):g}"/>'
            )
        place += count
    return found


def _words(name: str, whole: str, end: float, middle: float) -> list[str]:
    """Return labels with the name of a class, left of its row and above its column."""
    content = f"<title>{escape(whole)}</title>{escape(name)}"
    return [
        f'<text x="{end:.1f}" y="{middle:.1f}" text-anchor="end" dominant-baseline="central">'
        f"{content}</text>",
        f'<text transform="translate({middle:.1f} {end:.1f}) rotate(-90)" '
        f'dominant-baseline="central">{content}</text>',
    ]
