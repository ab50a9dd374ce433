"""What a model of the user's own must do, found before anything is trained."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor, nn

from mobilenas.channel_graph.models import allow_model
from mobilenas.channels import checks
from mobilenas.channels.checks import check_base
from mobilenas.cli.main import cli
from mobilenas.core.errors import InternalError, MobileNASError
from mobilenas.onnx.recount import OnnxCount
from mobilenas.spaces.channels import space as widths
from mobilenas.spaces.channels.space import Base

Forward = Callable[[Any, Tensor], Any]


class Net(nn.Module):
    """Two convolutions and a classifier; `forward` is what a test says."""

    def __init__(self, forward: Forward, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.said = [forward]
        self.a, self.norm = nn.Conv2d(3, 8, 3, 2), norm(8)
        self.b, self.fc = nn.Conv2d(8, 16, 1), nn.Linear(16, 4)

    def maps(self, x: Tensor) -> Tensor:
        return F.relu(self.b(F.relu(self.norm(self.a(x)))))

    def logits(self, x: Tensor) -> Tensor:
        return self.fc(self.maps(x).mean((2, 3)))

    def forward(self, x: Tensor) -> Any:
        return self.said[0](self, x)


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def checked(make: Callable[[], nn.Module], given: nn.Module | None = None) -> None:
        allow_model("nets:build")
        monkeypatch.setattr("mobilenas.channel_graph.models._from_factory", lambda _: make())
        widths._graph.cache_clear()
        widths._memory_format.cache_clear()
        check_base(Base(name="nets:build", image_size=8, in_channels=3, classes=4), given)

    return checked


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.logits(x),
        lambda m, x: 5 * m.logits(x).sigmoid(),
        lambda m, x: F.dropout(m.logits(x), 0.5, m.training),
        *(
            pytest.param(forward, marks=pytest.mark.slow)
            for forward in (
                lambda m, x: F.log_softmax(m.logits(x), 1),
                lambda m, x: m.logits(x) * m.logits(x).sigmoid(),
                lambda m, x: m.fc(m.maps(x).mean((2, 3)).sigmoid()),
                lambda m, x: F.relu6(m.logits(x)),
                lambda m, x: m.logits(x.clone().mul_(2)),
            )
        ),
    ],
)
def test_what_can_be_trained_and_exported_passes(check: Any, forward: Forward) -> None:
    before = torch.get_rng_state()
    check(lambda: Net(forward))
    assert torch.equal(before, torch.get_rng_state())


def frozen() -> nn.Module:
    return Net(lambda m, x: m.logits(x)).requires_grad_(False)


def zero_classifier() -> nn.Module:
    net = Net(lambda m, x: m.fc((m.maps(x) - m.maps(x).mean(0)).mean((2, 3))))
    nn.init.zeros_(net.fc.weight)
    return net


def no_statistics() -> nn.Module:
    plain = lambda m, x: m.logits(x)  # noqa: E731
    return Net(plain, lambda size: nn.BatchNorm2d(size, track_running_stats=False))


def stale_statistics() -> nn.Module:
    return Net(lambda m, x: m.logits(x), lambda size: nn.BatchNorm2d(size, momentum=0.0))


class Deep(nn.Module):
    """A weight with five dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Conv3d(1, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(F.relu(self.a(x[:, None]).squeeze(2)).mean((2, 3)))
        return y


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (stale_statistics, "norm has momentum 0, so its running statistics stay"),
        (no_statistics, "gives an image other logits when others are in its batch"),
        (lambda m, x: m.logits(x - x.mean(0)), "when others are in its batch"),
        (zero_classifier, "when others are in its batch"),
        (lambda m, x: m.logits(x) / m.logits(x).norm(), "when others are in its batch"),
        (lambda m, x: F.dropout(m.logits(x), 0.5, True), "when it sees the same images again"),
        (lambda m, x: m.logits(x + torch.rand_like(x)), "when it sees the same images again"),
        (lambda m, x: m.logits(x).squeeze(), r"float32 \[4\] for 1 image in evaluation mode"),
        (lambda m, x: (m.logits(x),) * 2 if m.training else m.logits(x), "gives a tuple in train"),
        (lambda m, x: m.logits(x)[:2], r"float32 \[2, 4\] for 5 images in training mode"),
        (lambda m, x: m.logits(x).softmax(1), "gives probabilities; it must give logits"),
        *(
            (forward, "each a probability; .* leave out the sigmoid")
            for forward in (
                lambda m, x: m.logits(x).sigmoid(),
                lambda: nn.Sequential(Net(lambda m, x: m.logits(x)), nn.Sigmoid()),
                lambda m, x: F.hardsigmoid(m.logits(x)),
                lambda m, x: torch.special.expit(m.logits(x)[:, :, None]).flatten(1),
            )
        ),
        (lambda m, x: m.logits(x.mul_(2)), "changes the images that it is given"),
        (lambda m, x: m.logits(x) * 1e30 * 1e30, "logits that are not finite in training mode"),
        (lambda m, x: m.logits(x) + (m.logits(x) * 0).sqrt(), "gradient of .* is not finite"),
        (lambda m, x: m.fc(m.maps(x).mean((2, 3)).view(2, 16)), r"fails in training mode: shape"),
        (frozen, "nothing to train: all parameters are frozen"),
        (lambda m, x: m.logits(x).detach(), "nothing to train"),
        (lambda: Net(lambda m, x: m.logits(x)).half(), "a.weight is float16; it must be float32"),
    ],
)
def test_what_would_fail_later_is_named(check: Any, net: Any, message: str) -> None:
    make = net if net.__code__.co_argcount == 0 else lambda: Net(net)
    with pytest.raises(MobileNASError, match=f"nets:build.*{message}"):
        check(make)


def test_a_weight_with_five_dimensions_is_refused_by_name(check: Any) -> None:
    with pytest.raises(MobileNASError, match=r"cannot be followed through Conv3d in a "):
        check(Deep)


def test_weights_that_overflow_are_named(check: Any) -> None:
    def make() -> nn.Module:
        return Net(lambda m, x: m.logits(x))

    given = make()
    with torch.no_grad():
        for weight in given.parameters():
            weight.fill_(1e30)
    with pytest.raises(MobileNASError, match="not finite with the given weights"):
        check(make, given)


def test_what_the_exporter_refuses_is_named(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no ONNX function for aten.odd\nmore")

    monkeypatch.setattr(checks, "export_onnx", refuse)
    with pytest.raises(MobileNASError, match="fails on its way to ONNX: no ONNX function for aten"):
        check(lambda: Net(lambda m, x: m.logits(x)))


def test_counts_that_differ_are_no_fault_of_the_caller(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "count_fvcore", lambda *_: {"a": 1})
    with pytest.raises(InternalError, match=r"two counts of nets:build differ: .* FLOPs and"):
        check(lambda: Net(lambda m, x: m.logits(x)))


def test_a_count_on_the_file_that_differs_is_found_before_training(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = OnnxCount(flops=1, params=10**6, layers=())
    monkeypatch.setattr(checks, "count_onnx", lambda _: more)
    with pytest.raises(InternalError, match=r"1 and 1,000,000 on its ONNX file"):
        check(lambda: Net(lambda m, x: m.logits(x)))


NETS = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )
"""
WORDS = "channels --model planted_checks:build --data digits --flops 9k --out run"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sys.modules.pop("planted_checks", None)
    return tmp_path


def test_the_command_ends_before_a_run_is_begun(here: Path) -> None:
    Path("planted_checks.py").write_text(NETS, encoding="utf-8")
    result = CliRunner().invoke(cli, [*WORDS.split(), "--quiet"])
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "planted_checks:build gives an image other logits" in line
    assert not Path("run").exists()


def test_weights_are_read_before_a_run_is_begun(here: Path) -> None:
    good = NETS.replace(", track_running_stats=False", "").replace("build", "good")
    Path("planted_checks.py").write_text(good, encoding="utf-8")
    save_file({"0.weight": torch.zeros(1)}, "w.safetensors")
    words = [*WORDS.replace("build", "good").split(), "--weights", "w.safetensors"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 2
    assert "w.safetensors does not fit planted_checks:good" in result.stderr
    assert not Path("run").exists()


def test_a_fault_of_our_own_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise InternalError("two counts differ")

    monkeypatch.setattr("mobilenas.cli.methods.command.callback", fail)
    result = CliRunner().invoke(cli, ["methods"])
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "two counts differ; this is a fault of mobilenas, not of your input" in line
