import pytest

from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem
from mobilenas.spaces.subnetworks.space import SubnetworkSpace


@pytest.fixture(scope="session")
def parts() -> SubnetworkSpace:
    """The parts of a network that pads as TensorFlow does, at two sides."""
    block = {"squeeze": 0, "activation": "relu6"}
    whole = MobileArch(
        image_size=48,
        in_channels=3,
        classes=10,
        stem=Stem(channels=8, stride=2, activation="relu6"),
        blocks=(
            Block(kernel=5, hidden=48, out=16, stride=2, **block),
            Block(kernel=5, hidden=96, out=16, stride=1, **block),
            Block(kernel=3, hidden=64, out=24, stride=2, **block),
        ),
        head=Head(channels=32, hidden=0, activation="relu6", dropout=0.1),
        padding="same",
    )
    return SubnetworkSpace(whole=whole, sides=(32, 48))
