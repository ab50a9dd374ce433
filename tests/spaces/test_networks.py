"""What is no arch, and what of a network is deployed."""

import pytest

from mobilenas.core.errors import FileError
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.spaces.networks import arch_from_dict, build

MOBILE = MOBILENETS["mobilenet_v3_small"](0.35, 32, 10)
CELL = CELL_NETWORKS["darts_v2"](16, 7)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "here: arch is 3; it must be an object"),
        ({}, "here: arch.space is None; it must be one of mobile, cell"),
        ({"space": ["cell"]}, r"here: arch.space is \['cell'\]; it must be one of mobile, cell"),
        ({"space": "cell"}, "here: arch lacks 'image_size'"),
        (MOBILE.to_dict() | {"space": "cell"}, "here: arch lacks 'layers'"),
        (CELL.to_dict() | {"space": "mobile"}, "here: arch lacks 'blocks'"),
    ],
)
def test_what_is_no_arch_is_refused(data: object, message: str) -> None:
    with pytest.raises(FileError, match=message):
        arch_from_dict(data, "here")


def test_only_the_auxiliary_classifier_is_not_deployed() -> None:
    network = build(CELL)
    named = dict(network.named_parameters())
    deployed = {id(weight) for weight in network.deployed_parameters()}
    left_out = {name for name, weight in named.items() if id(weight) not in deployed}
    assert left_out == {name for name in named if name.startswith("auxiliary.")} != set()
    assert len(list(build(MOBILE).deployed_parameters())) == len(list(build(MOBILE).parameters()))
