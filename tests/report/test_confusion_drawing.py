"""The drawing of a confusion matrix: names of classes are whole, or shortened to what has room."""

import re

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from mobilenas.report.confusion_drawing import confusion_drawing, shortened

DEJAVU = FontProperties(family="DejaVu Sans")
"""The widest of the fonts that usual systems show pages in."""

NAMES = ("0123456789012345", "WWWWWWWW", "MAINE_COON_CATS", "<b>&amp;\"x'", "Щука и кошка", "mmmm")


@pytest.mark.parametrize("name", NAMES)
def test_there_is_room_for_every_name(name: str) -> None:
    drawing = confusion_drawing({}, [name, "b"])
    left = re.search(r'<rect x="([\d.]+)"', drawing)
    assert left is not None
    width = TextPath((0, 0), shortened(name), size=11, prop=DEJAVU).get_extents().width
    assert width < float(left[1])


def test_long_names_are_shortened_to_the_room_of_sixteen_digits() -> None:
    assert shortened("a" * 16) == "a" * 16
    assert shortened("a" * 17) == "a" * 14 + "…"
    assert shortened("W" * 17) == "W" * 9 + "…"
    assert shortened("犬" * 17) == "犬" * 7 + "…"
