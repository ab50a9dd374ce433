"""One name for what both spaces have: reading, building, costs."""

from pathlib import Path

import pytest

from mobilenas.core.errors import FileError
from mobilenas.core.files import write_json
from mobilenas.cost.networks import costs, layer_costs
from mobilenas.onnx.recount import count_fvcore
from mobilenas.spaces.base import Arch
from mobilenas.spaces.cell.build import CellNetwork
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS
from mobilenas.spaces.mobile.build import MobileNetwork
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.spaces.networks import arch_from_dict, build, read_arch

MOBILE = MOBILENETS["mobilenet_v3_small"](0.35, 32, 10)
CELL = CELL_NETWORKS["darts_v2"](16, 7)


@pytest.mark.parametrize("arch", [MOBILE, CELL])
def test_an_arch_is_read_from_its_own_file_and_from_that_of_a_run(
    arch: Arch, tmp_path: Path
) -> None:
    write_json(tmp_path / "bare.json", arch.to_dict())
    write_json(tmp_path / "arch.json", {"arch": arch.to_dict()})
    assert read_arch(tmp_path / "bare.json") == arch
    assert read_arch(tmp_path / "arch.json") == arch
    assert arch_from_dict(arch.to_dict()) == arch


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


@pytest.mark.parametrize(("arch", "kind"), [(MOBILE, MobileNetwork), (CELL, CellNetwork)])
def test_a_network_is_built_and_counted_by_one_name(arch: Arch, kind: type) -> None:
    network, exact = build(arch), costs(arch)
    assert type(network) is kind
    assert exact.flops == sum(count_fvcore(network, arch.image_size, arch.in_channels).values())
    assert exact.flops == sum(layer.flops for layer in layer_costs(arch))
    assert exact.params == sum(weight.numel() for weight in network.deployed_parameters())


def test_only_the_auxiliary_classifier_is_not_deployed() -> None:
    network = build(CELL)
    named = dict(network.named_parameters())
    deployed = {id(weight) for weight in network.deployed_parameters()}
    left_out = {name for name, weight in named.items() if id(weight) not in deployed}
    assert left_out == {name for name in named if name.startswith("auxiliary.")} != set()
    assert len(list(build(MOBILE).deployed_parameters())) == len(list(build(MOBILE).parameters()))
