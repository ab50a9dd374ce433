"""What others add by name."""

import pytest

from mobilenas.core.errors import MobileNASError
from mobilenas.core.registry import Registry


def test_a_thing_is_there_by_its_name() -> None:
    things = Registry("thing", {"own": 1})
    assert things.register("more", 2) == 2
    assert dict(things) == {"own": 1, "more": 2}


@pytest.mark.parametrize("name", ["own", "", "A", "1st", "a b", "a,b", "a/b", "a=b"])
def test_a_name_that_is_taken_or_cannot_be_written_is_refused(name: str) -> None:
    things = Registry("thing", {"own": 1})
    with pytest.raises(MobileNASError, match="thing"):
        things.register(name, 2)
    assert dict(things) == {"own": 1}
