from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.exc import InductorError

from mobilenas.core.progress import NullReporter
from mobilenas.nn.network import Network
from mobilenas.spaces.networks import build
from mobilenas.train import Trainer, compiled, training_identity

from .test_trainer import ARCH, CELLS, DATA, RECIPE

COMPILED = replace(RECIPE, compile=True)
Results = tuple[list[str], dict[str, Tensor], list[float]]


class Remarks(NullReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Results]:
    """Train two epochs with a backend; return what was reported, the weights, and the losses."""

    def trained(backend: object, arch: Any = ARCH, recipe: Any = COMPILED) -> Results:
        monkeypatch.setattr(compiled, "_BACKEND", backend)
        remarks = Remarks()
        trainer = Trainer(arch, DATA, recipe, seed=0, reporter=remarks)
        losses = [trainer.run_epoch()["loss"] for _ in range(2)]
        return remarks.lines, trainer.weights(), losses

    return trained


class Counting:
    """A backend that runs the graph as it is."""

    def __init__(self) -> None:
        self.graphs = self.runs = 0

    def __call__(self, graph: nn.Module, _: object) -> Callable[..., object]:
        self.graphs += 1

        def run(*given: object) -> object:
            self.runs += 1
            return graph(*given)

        return run


@pytest.mark.parametrize("arch", [ARCH, replace(CELLS, drop_path=0.0)], ids=["mobile", "cell"])
def test_every_step_runs_one_graph_with_the_same_weights(
    trained: Callable[..., Results], arch: Any
) -> None:
    backend = Counting()
    remarks, weights, losses = trained(backend, arch)
    assert not remarks
    assert backend.graphs == 1
    assert backend.runs == 1 + 2 * (len(DATA.train) // RECIPE.batch_size)  # one is the trial
    _, plain, expected = trained(None, arch, RECIPE)
    assert losses == expected
    assert weights.keys() == plain.keys() == build(arch).state_dict().keys()
    assert all(torch.equal(weights[name], plain[name]) for name in plain)


def test_a_compiled_backward_pass_gives_the_same_weights(trained: Callable[..., Results]) -> None:
    remarks, weights, _ = trained("aot_eager")
    assert not remarks
    torch.testing.assert_close(weights, trained(None, recipe=RECIPE)[1])


def refuse(*_: object) -> None:
    raise ValueError("no such processor\nand more")


def refuse_later(*_: object) -> None:
    raise InductorError(ValueError("no such processor\nand more"), None)


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (refuse, "no such processor"),
        (
            aot_autograd(fw_compiler=lambda graph, _: graph, bw_compiler=refuse_later),
            "no such processor",
        ),
        ("missing", "Invalid backend: 'missing'"),
    ],
    ids=["forward", "backward", "missing"],
)
def test_training_goes_on_without_it_and_says_why(
    trained: Callable[..., Results], backend: object, reason: str
) -> None:
    (remark,), weights, losses = trained(backend)
    assert remark.startswith(f"training without torch.compile: {reason}")
    assert "\n" not in remark
    _, plain, expected = trained(None, recipe=RECIPE)
    assert losses == expected
    assert all(torch.equal(weights[name], plain[name]) for name in plain)


class Branching(Network):
    """Its graph depends on the images."""

    auxiliary = None

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def reason_of(network: Network) -> str:
    """Return why a network is not compiled."""
    remarks, mixed = Remarks(), torch.autocast("cpu", enabled=False)
    forward = compiled.compiled(network, torch.ones(2, 3, 8, 8), mixed, remarks)
    assert forward == network.training_logits
    (line,) = remarks.lines
    return line


def test_a_network_with_branches_is_not_compiled() -> None:
    assert "branching" in reason_of(Branching())


def test_one_of_several_processes_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.processes, "count", lambda: 2)
    assert "several processes" in reason_of(build(ARCH))


def test_drop_path_would_be_compiled_again_every_epoch(trained: Callable[..., Results]) -> None:
    backend = Counting()
    (remark,), _, _ = trained(backend, CELLS)
    assert "drop path changes every epoch" in remark
    assert not backend.graphs


def test_a_training_is_not_resumed_with_another_setting() -> None:
    plain, other = (training_identity(ARCH, DATA, recipe, 0) for recipe in (RECIPE, COMPILED))
    assert "compile" not in plain["recipe"]
    assert other["recipe"] == plain["recipe"] | {"compile": True}
