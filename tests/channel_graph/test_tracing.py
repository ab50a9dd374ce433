import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobilenas.channel_graph import load_model
from mobilenas.channel_graph.tracing import trace, without_data
from mobilenas.core.errors import MobileNASError


class Net(nn.Module):
    def __init__(self, side: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.AdaptiveAvgPool2d(side)
        self.fc = nn.Linear(4 * side**2, 5)

    def features(self, x: Tensor) -> Tensor:
        return self.pool(self.norm(self.conv(x))).flatten(1)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.features(x))


def line_of(text: str) -> str:
    """This file's line that ends with a comment, as errors name it."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = (place for place, line in enumerate(lines, 1) if line.endswith(f"# {text}"))
    return f"{__file__}:{number}"


class Branching(Net):
    def forward(self, x: Tensor) -> Any:
        x = self.features(x)
        if x.sum() > 0:  # branch
            x = -x
        return self.fc(x)


class Looping(Net):
    def forward(self, x: Tensor) -> Any:
        return sum(self.fc(self.features(image[None])) for image in x)  # loop


class Broken(Net):
    def forward(self, x: Tensor) -> Any:
        return self.fc(self.missing(x))  # missing


@pytest.mark.parametrize(
    ("model", "reason", "line", "text"),
    [
        (Branching(), "control flow", "branch", "if x.sum() > 0:  # branch"),
        (Looping(), "cannot be iterated", "loop", "return sum("),
        (Broken(), "no attribute 'missing'", "missing", "return self.fc(self.missing(x))"),
    ],
)
def test_the_line_that_breaks_the_trace_is_named(
    model: nn.Module, reason: str, line: str, text: str
) -> None:
    place = re.escape(f"{line_of(line)}: {text}")
    with pytest.raises(MobileNASError, match=f"^{type(model).__name__} .*{reason}.*{place}"):
        trace(model, image_size=8)


def test_a_line_inside_a_layer_of_the_model_is_named() -> None:
    with pytest.raises(MobileNASError, match=re.escape(line_of("branch"))):
        trace(nn.Sequential(nn.Identity(), Branching()), image_size=8)


@pytest.mark.parametrize(
    ("image_size", "in_channels", "reason"),
    [
        (2, 3, r"2x2 images of 3 channels: .*[Kk]ernel size can't be greater.* conv \("),
        (8, 1, r"8x8 images of 1 channel: .*, at conv \("),
    ],
)
def test_images_that_do_not_fit_are_named(image_size: int, in_channels: int, reason: str) -> None:
    with pytest.raises(MobileNASError, match=f"the model does not take {reason}"):
        trace(Net(), image_size=image_size, in_channels=in_channels)


def test_a_model_for_one_image_size_takes_no_other() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    trace(model, image_size=8)
    with pytest.raises(MobileNASError, match=r"does not take 9x9 images .* at 2 \("):
        trace(model, image_size=9)


class Twice(Net):
    def forward(self, x: Tensor) -> Any:
        return self.fc(self.features(x)), self.fc(self.features(x))


class Named(Net):
    def forward(self, x: Tensor) -> Any:
        return {"logits": self.fc(self.features(x))}


class Maps(Net):
    def forward(self, x: Tensor) -> Any:
        return self.conv(x) + self.fc(self.features(x)).mean()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Twice(), "gives a tuple of 2 values; it must give one tensor of logits"),
        (Named(), "gives a dict of 1 value"),
        (Maps(), r"gives a tensor \[N, 4, 6, 6\]; it must give logits \[N, classes\]"),
    ],
)
def test_other_outputs_than_logits_are_refused(model: nn.Module, reason: str) -> None:
    with pytest.raises(MobileNASError, match=reason):
        trace(model, image_size=8)


def test_a_second_input_is_refused() -> None:
    class Pair(Net):
        def forward(self, x: Tensor, y: Tensor) -> Any:
            return self.fc(self.features(x + y))

    with pytest.raises(MobileNASError, match=r"Pair.forward takes x, y; it must take one batch"):
        trace(Pair(), image_size=8)


def test_tied_weights_of_two_layers_are_refused() -> None:
    model = Net()
    model.other = nn.Conv2d(3, 4, 3)
    model.other.weight = model.conv.weight
    with pytest.raises(MobileNASError, match=r"^other\.weight is the same tensor as conv\.weight"):
        trace(model, image_size=8)


def test_weights_that_are_not_used_are_refused() -> None:
    model = Net()
    model.other = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(MobileNASError, match=r"^other\.0\.weight takes no part"):
        trace(model, image_size=8)


def test_the_model_stays_as_it_is() -> None:
    model = Net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    traced = trace(model, image_size=8)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not traced.modules[""].training
    assert all(parameter.is_meta for parameter in traced.modules[""].parameters())


def test_a_copy_without_data_shares_what_the_model_shares() -> None:
    layer = nn.Linear(3, 3)
    twin = without_data(nn.Sequential(layer, nn.ReLU(), layer))
    assert twin[0] is twin[2]
    assert twin[0].weight.is_meta


def test_shapes_are_those_of_a_real_pass() -> None:
    model = load_model("torchvision:mobilenet_v3_small", classes=7, image_size=64).eval()
    shapes = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _m, _x, y, name=name: shapes.update({name: y.shape}))
    traced = trace(model, image_size=64)
    model(torch.zeros(2, 3, 64, 64))
    layers = [node for node in traced.graph.nodes if node.op == "call_module"]
    assert len(layers) > 100
    assert all(traced.results[node].shape == shapes[node.target] for node in layers)
