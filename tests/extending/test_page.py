"""docs/extending.md: the code of every section runs as it stands, from outside the package."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import mobilenas
from mobilenas.cli.main import cli
from mobilenas.core.plugins import GROUP
from mobilenas.core.registry import Registry
from mobilenas.cost.networks import costs_by_name
from mobilenas.nn.costs import COSTS
from mobilenas.nn.operations import OPERATIONS
from mobilenas.onnx.other_runtimes import RUNTIMES
from mobilenas.search.methods import METHODS
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.train.pretrained import SOURCES
from mobilenas.train.recipes import RECIPES

PAGE = Path(__file__).parents[2] / "docs/extending.md"
REGISTRIES: tuple[Registry[Any], ...] = (
    *(COSTS, METHODS, MOBILENETS, OPERATIONS, RECIPES, RUNTIMES, SOURCES),
)


def code(heading: str) -> str:
    """The Python of the section with this heading, or of what stands before all sections."""
    before, *parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.M)
    sections = {"": before} | dict(zip(parts[::2], parts[1::2], strict=True))
    (block,) = re.findall(r"```python\n(.*?)```", sections[heading], re.S)
    return str(block)


@pytest.fixture
def ran(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """What the names of a section stand for after it has run in an empty folder."""
    before = [(registry, dict(registry)) for registry in REGISTRIES]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code("") + code(request.param), names)
    yield names
    for registry, things in before:
        registry.clear()
        registry.update(things)


@pytest.mark.parametrize("ran", ["An operation"], indirect=True)
def test_blocks_choose_a_registered_operation(ran: dict[str, Any]) -> None:
    assert ran["run"].space.kernels == (3, 5, "dilated_3x3")
    assert set(ran["kernels"]) <= {3, 5, "dilated_3x3"}


@pytest.mark.parametrize("ran", ["A cost"], indirect=True)
def test_a_search_keeps_a_budget_of_a_registered_cost(ran: dict[str, Any]) -> None:
    (budget,) = ran["record"].budgets
    assert (budget.cost, budget.limit, budget.holds) == ("activations", 6000, True)
    assert 0.9 * 6000 <= ran["record"].costs["activations"] <= 6000
    assert ran["alphas"].logits["width"].grad.abs().sum() > 0
    drawn = mobilenas.random_networks(ran["run"].space, {"activations": "6k"}, 2)
    assert all(5400 <= costs_by_name(arch)["activations"] <= 6000 for arch in drawn)


@pytest.mark.parametrize("ran", ["A search method"], indirect=True)
def test_a_registered_method_is_searched_with(ran: dict[str, Any]) -> None:
    settings = ran["run"].settings
    assert (settings.method, settings.search.sampling) == ("annealed", "gumbel")
    assert (settings.search.sampler.name, settings.search.temperature.end) == ("random", 0.1)


@pytest.mark.parametrize("ran", ["A training recipe"], indirect=True)
def test_a_registered_recipe_trains_what_is_searched(ran: dict[str, Any]) -> None:
    recipe = ran["run"].settings.recipe
    assert (recipe.optimizer, recipe.learning_rate, recipe.mixup) == ("adamw", 0.002, 0.1)
    assert (ran["run"].folder / "train/train.json").exists()
    listed = CliRunner().invoke(cli, ["recipes"]).stdout
    assert "gentle: AdamW on few images (ours)" in listed


@pytest.mark.parametrize("ran", ["An export format"], indirect=True)
def test_a_registered_format_is_written_and_checked(ran: dict[str, Any]) -> None:
    entry = ran["files"]["pt2"]
    assert (ran["run"].folder / entry.path).stat().st_size == entry.size_bytes
    assert entry.parity.max_abs_difference < 1e-3
    assert entry.top1 == ran["files"]["onnx"].top1


@pytest.mark.parametrize("ran", ["A baseline"], indirect=True)
def test_a_registered_baseline_is_trained_alike(ran: dict[str, Any]) -> None:
    found, *baselines = ran["compare_stage"](ran["run"])
    assert baselines and {entry.name.split()[0] for entry in baselines} == {"separable"}
    assert all(0 < entry.flops <= 100_000 for entry in (found, *baselines))


@pytest.mark.parametrize("ran", ["A pretrained network"], indirect=True)
def test_a_registered_pretrained_network_is_listed_and_loaded(ran: dict[str, Any]) -> None:
    given, state = torch.load(ran["file"], weights_only=True), ran["state"]
    assert ran["arch"] == ran["narrow"](128, 4)
    drawn = [key for key in given if not torch.equal(given[key], state[key])]
    assert drawn == ["classifier.1.weight", "classifier.1.bias"]
    listed = CliRunner().invoke(cli, ["pretrained"]).stdout.split()
    assert listed[listed.index("narrow:") + 1] == str(ran["file"].absolute())


def test_the_command_line_sees_what_a_plugin_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nmine = mine_registered\n")
    module = tmp_path / "mine_registered.py"
    module.write_text(
        "from mobilenas.search.methods import METHODS\nMETHODS.register('mine', METHODS['darts'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert "\nmine\n" in CliRunner().invoke(cli, ["methods"]).stdout
    finally:
        METHODS.pop("mine", None)


def test_a_plugin_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nmine = not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    result = CliRunner().invoke(cli, ["methods"])
    assert result.exit_code == 2
    assert "plugin mine (not_there) cannot be imported" in result.stderr
