from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from mobilenas.core.errors import MobileNASError
from mobilenas.core.setting import check_settings, setting, settings_of
from mobilenas.nn import ACTIVATIONS
from mobilenas.onnx.other_runtimes import RUNTIMES
from mobilenas.pipeline.export_settings import OTHER_FORMATS
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.spaces.mobile.settings import Activation, MobileNet


@dataclass(frozen=True, kw_only=True)
class Oven:
    mode: Literal["grill", "bake"] = setting("bake", help="How it heats.")
    racks: tuple[Literal["top", "middle"], ...] = setting(("top",), help="Racks.", fewest=1)
    celsius: int | None = setting(None, help="Heat.", default_text="by mode", low=50, high=250)
    fan: Literal["on", "off"] | None = None
    dish: str = setting("", help="What is in it.", built_in=("pie", "bread"))
    book: Path | None = setting(None, help="Recipes.", flag="--recipes")
    shelf: int | Literal["any"] = setting(1, help="Where it goes.", low=1, high=4)

    def __post_init__(self) -> None:
        check_settings(self)


def test_settings_are_read_from_the_fields() -> None:
    settings = {one.name: one for one in settings_of(Oven)}
    assert list(settings) == ["mode", "racks", "celsius", "dish", "book", "shelf"]
    assert [one.placeholder for one in settings.values()] == [
        *("[grill|bake]", "NAMES", "N", "[pie|bread]", "FILE", "N|any")
    ]
    assert [one.default_shown for one in settings.values()] == [
        "bake",
        "top",
        "by mode",
        "",
        "",
        "1",
    ]
    assert (settings["celsius"].option, settings["book"].option) == ("--celsius", "--recipes")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "steam"}, "mode is 'steam'; it must be one of grill, bake"),
        ({"racks": ("top", "floor")}, "--racks has 'floor'; it must be one of top, middle"),
        ({"racks": "top"}, "--racks is 'top'; it must be a list"),
        ({"racks": ()}, "--racks is none; it must have 1 name"),
        ({"celsius": 300}, "--celsius is 300; it must be between 50 and 250"),
        ({"celsius": 99.5}, "--celsius is 99.5; it must be a whole number"),
        ({"celsius": "hot"}, "celsius is 'hot'; it must be between 50 and 250"),
        ({"shelf": 5}, "--shelf is 5; it must be between 1 and 4"),
        ({"shelf": "none"}, "--shelf is 'none'; it must be between 1 and 4"),
        ({"fan": "low"}, "fan is 'low'; it must be one of on, off"),
    ],
)
def test_what_is_not_legal_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(MobileNASError, match=message):
        Oven(**given)


def test_an_open_set_is_left_to_its_registry() -> None:
    assert Oven(dish="cake", celsius=50).dish == "cake"


def test_a_word_may_stand_for_a_number() -> None:
    assert (Oven(shelf="any").shelf, Oven(shelf=4).shelf) == ("any", 4)


@pytest.mark.parametrize(
    ("names", "registry"),
    [
        (get_args(Activation), ACTIVATIONS),
        (get_args(MobileNet), MOBILENETS),
        (OTHER_FORMATS, RUNTIMES),
    ],
)
def test_names_are_those_that_torch_knows(names: tuple[str, ...], registry: dict[str, Any]) -> None:
    assert set(names) == set(registry)
