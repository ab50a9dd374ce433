import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.cost.projection import ALIGNED
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS
from mobilenas.spaces.channels import space as widths
from mobilenas.spaces.channels.space import Base, ChannelsArch, ChannelsNetwork, ChannelsSpace
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.spaces.networks import arch_from_dict, build

CELL = replace(CELL_NETWORKS["darts_v2"](16, 5), layers=3, channels=4)
BASES = {
    "mobile": Base.of(MOBILENETS["mobilenet_v3_small"](0.25, 16, 5)),
    "cell": Base.of(CELL),
    "named": Base(name="torchvision:shufflenet_v2_x0_5", image_size=32, in_channels=3, classes=5),
}
MOBILE = ChannelsSpace(base=BASES["mobile"])

every_base = pytest.mark.parametrize("base", BASES.values(), ids=list(BASES))


@every_base
def test_random_sizes_are_built_and_come_back_from_json(base: Base) -> None:
    space = ChannelsSpace(base=base)
    arch = space.arch(space.random(random.Random(1)))
    assert all(size % ALIGNED == 0 for size in arch.sizes.values())
    assert arch_from_dict(arch.to_dict()) == arch
    assert arch.to_dict()["space"] == "channels"
    network = build(arch).eval()
    side = base.image_size
    assert network(torch.rand(2, 3, side, side)).shape == (2, 5)
    assert network.auxiliary is None
    weights = sum(weight.numel() for weight in network.deployed_parameters())
    assert weights == base.graph.params(arch.sizes)


def test_legal_sizes_reach_twice_the_model_s_in_steps_that_its_groups_allow() -> None:
    base = Base(name="torchvision:resnext50_32x4d", image_size=32, in_channels=3, classes=5)
    space = ChannelsSpace(base=base)
    grouped = {name: legal for name, legal in space.ranges.items() if legal.step != ALIGNED}
    assert grouped and {legal.step for legal in grouped.values()} == {32}
    for name, size in space.start().items():
        assert space.ranges[name].largest == 2 * size
        assert space.largest()[name] == 2 * size
        assert space.smallest()[name] == space.ranges[name].step


def test_a_model_without_free_groups_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = MOBILE.base.graph
    stiff = replace(graph, fixed=dict.fromkeys(graph.sizes, "somebody says so"))
    monkeypatch.setattr(Base, "graph", stiff)
    with pytest.raises(MobileNASError, match="no channel size of a network of the mobile space"):
        _ = MOBILE.ranges


def test_a_base_is_one_thing() -> None:
    with pytest.raises(MobileNASError, match="one of name, mobile and cell"):
        Base(image_size=16, in_channels=3, classes=5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": [8]}, "arch.sizes is [8]; it must be an object"),
        ({"sizes": {"a": "8"}}, "arch.sizes.a is '8'; it must be int"),
        ({"model": {"space": ["mobile"]}}, "arch.model is {'space': ['mobile']};"),
        ({"model": 7}, "arch.model is 7; it must be a name or an arch of the spaces mobile, cell"),
        ({"model": {"space": "channels"}}, "must be a name or an arch of the spaces mobile, cell"),
        ({"image_size": None}, "arch.image_size is None; it must be int"),
        ({"more": 1}, "arch must be an object with the fields space, image_size"),
        ({"space": "mobile"}, "arch.space is 'mobile'; it must be channels"),
    ],
)
def test_a_file_that_is_no_arch_is_refused(change: dict[str, Any], message: str) -> None:
    plain = MOBILE.arch(MOBILE.start()).to_dict() | change
    with pytest.raises(FileError) as caught:
        ChannelsArch.from_dict(plain, "given.json")
    assert str(caught.value).startswith("given.json: ")
    assert message in str(caught.value)


def test_sizes_of_another_model_are_refused() -> None:
    with pytest.raises(MobileNASError, match="there is no group 'other'"):
        build(MOBILE.arch({"other": 8}))


class Flattened(nn.Module):
    """Most often written so: features, view, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.classifier = nn.Conv2d(3, 8, 3, 2), nn.Linear(8 * 3 * 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).view(x.size(0), -1))


def test_a_model_that_views_its_feature_maps_is_not_trained_channels_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(widths, "load_model", lambda *_, **__: Flattened())
    monkeypatch.setattr(widths, "check_allowed", lambda _: None)
    base = Base(image_size=8, in_channels=3, classes=4, name="nets:flattened")
    network = ChannelsNetwork(base.module(), base)
    assert network.memory_format is torch.contiguous_format
    images = torch.randn(2, 3, 8, 8)
    logits = network(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, network.model(images))
    other = Base(image_size=32, in_channels=3, classes=4, name="torchvision:mobilenet_v2")
    assert other.memory_format is torch.channels_last
