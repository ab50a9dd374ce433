"""The variants of an ablation, parsed from the command line."""

import re
from dataclasses import dataclass

from mobilenas.core.errors import MobileNASError
from mobilenas.core.setting import settings_of
from mobilenas.core.settings import Fields
from mobilenas.search.methods import METHODS
from mobilenas.search.parts import PARTS, SearchParts

RANDOM = "random"
"""The variant that draws its networks uniformly, without a search."""

_KINDS = {
    one.name: type(one.legal[0]) if one.legal else one.kind for one in settings_of(SearchParts)
}
"""Type of each part."""
_YES_NO = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A variant of an ablation: a method, possibly with parts changed, or random networks."""

    name: str
    """METHOD:part=value:part=value, with the values as the user wrote them."""
    method: str | None
    """A name from METHODS; None for random networks."""
    parts: Fields
    """Values of the changed parts, by their names in PARTS."""

    @property
    def file_name(self) -> str:
        """The name without characters that are special to file systems or shells."""
        return self.name.replace(":", "_").replace("/", "of").replace(",", "+")

    def is_like(self, other: "Variant") -> bool:
        """Whether both have the same method and parts, however they are written."""
        return (self.method, self.parts) == (other.method, other.parts)


def parse_variants(text: str) -> tuple[Variant, ...]:
    """Parse `darts,pc-darts:sampler=attention:channel_fraction=1/2,random`."""
    # of all values, only that of entropy_terms may contain a comma
    variants = tuple(map(parse_variant, re.split(r",(?!\s*(?:operations|edges)\b)", text)))
    for number, variant in enumerate(variants):
        for other in variants[:number]:
            if variant.is_like(other):
                raise MobileNASError(f"a variant is given twice: {other.name} and {variant.name}")
    return variants


def parse_variant(text: str) -> Variant:
    """Parse one variant."""
    # of all values, only that of temperature may contain a colon
    method, *words = (word.strip() for word in re.split(r":(?=[^:=]*=)", text.strip()))
    if method not in METHODS and method != RANDOM:
        raise MobileNASError(
            f"{method!r} is not a variant; write METHOD or METHOD:part=value:part=value, where "
            f"METHOD is one of {', '.join(METHODS)}, {RANDOM}"
        )
    if method == RANDOM and words:
        raise MobileNASError(f"variant {text.strip()}: {RANDOM} has no parts to change")
    given: dict[str, str] = {}
    for word in words:
        part, value = (side.strip() for side in word.split("=", 1))
        part = part.replace("-", "_")
        if part not in PARTS:
            raise MobileNASError(
                f"variant {text.strip()}: {part!r} is not a part; it must be one of "
                f"{', '.join(PARTS)}"
            )
        if part in given:
            raise MobileNASError(f"variant {text.strip()}: {part} is given twice")
        given[part] = value
    return Variant(
        name=":".join([method, *map("=".join, given.items())]),
        method=None if method == RANDOM else method,
        parts={part: _value(part, value, text.strip()) for part, value in given.items()},
    )


def _value(part: str, text: str, variant: str) -> object:
    """Parse a part's value to its type."""
    kind = _KINDS[part]
    wrong = f"variant {variant}: {part} is {text!r}; it must be"
    if kind is bool:
        if text not in _YES_NO:
            raise MobileNASError(f"{wrong} yes or no")
        return _YES_NO[text]
    if not text:
        raise MobileNASError(f"{wrong} a value of --{part.replace('_', '-')}")
    try:
        return kind(text)
    except ValueError as error:
        raise MobileNASError(f"{wrong} a {'whole ' * (kind is int)}number") from error
