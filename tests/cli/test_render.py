"""What a person reads: archs, tables, labels, help."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mobilenas.cli.main import cli
from mobilenas.cli.render import show_arch, show_budget_check, show_table
from mobilenas.core.records import BudgetRow
from mobilenas.cost.networks import costs
from mobilenas.onnx.predict import Prediction
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS, parse_genotype
from mobilenas.spaces.channels.space import Base, ChannelsSpace
from mobilenas.spaces.mobile.mobilenets import MOBILENETS


def test_cells_are_shown_as_the_papers_write_them(capsys: pytest.CaptureFixture[str]) -> None:
    arch = replace(CELL_NETWORKS["pc_darts_cifar"](), channels=16, layers=8)
    show_arch(arch.to_dict())
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for figure in (costs(arch).flops, costs(arch).params, costs(arch).memory):
        assert f"{figure:,}" in shown
    assert "16 to 64" in shown
    text = shown[shown.index("Genotype(") :]
    assert parse_genotype(text) == arch.genotype
    assert not [line for line in text.splitlines() if line.startswith(tuple("0123456789"))]


def test_blocks_are_shown_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    show_arch(MOBILENETS["mobilenet_v3_small"](0.25, 32, 10).to_dict())
    shown = capsys.readouterr().out
    assert "blocks.10" in shown
    assert "Genotype" not in shown


def test_where_there_is_no_budget_there_is_no_budget_check(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_budget_check([])
    assert capsys.readouterr().out == ""
    show_budget_check([BudgetRow(cost="flops", limit=5, predicted=4, holds=True)])
    assert "flops" in capsys.readouterr().out


def commands(group: click.Group, *above: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, under its whole name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)
        else:
            yield (*above, name), command


def test_every_command_answers_in_json_and_has_a_help_of_80_columns() -> None:
    every = dict(commands(cli))
    assert ("profile", "flops") in every and ("predict",) in every
    for words, command in every.items():
        names = {name for option in command.params for name in option.opts}
        assert "--json" in names, words
        shown = CliRunner().invoke(cli, [*words, "--help"]).stdout
        assert max(map(len, shown.splitlines())) <= 80, words


FIGURES = ("12,345,678", "0.0757 ± 0.0001", "97.2 ± 0.4")
COLUMNS = ("name", "device", "FLOPs", "ms", "top-1 %")


def tabled(
    capsys: pytest.CaptureFixture[str], *row: str, columns: tuple[str, ...] = COLUMNS
) -> list[str]:
    show_table("Title", columns, [row], words=("device",))
    return capsys.readouterr().out.splitlines()


def test_a_table_is_folded_at_spaces_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = "mobilenet_v3_small x0.12 late (external)", "Processor(TM) of a very long name"
    shown = tabled(capsys, *words, *FIGURES)
    assert shown[1].split() == ["name", "device", "FLOPs", "ms", "top-1", "%"]
    assert max(map(len, shown)) <= 80
    found = "\n".join(shown[3:]).split()
    assert sorted(found) == sorted(" ".join((*words, *FIGURES)).split())
    assert all(any(figure in line for line in shown) for figure in FIGURES)


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize("length", [5, 30, 60])
def test_a_row_that_is_too_wide_becomes_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, length: int, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    name = ("abcdefghij" * 6)[:length]
    shown = tabled(capsys, name, f"{name} of a device", *FIGURES)[1:]
    if (width, length) == (80, 5):
        assert shown[1] == "─" * len(shown[0])
        return
    assert max(map(len, shown)) <= width
    text = " ".join(line.strip() for line in shown)
    if length <= width - 4:
        told = "; ".join(map(" ".join, zip(COLUMNS[2:], FIGURES, strict=True)))
        assert text.strip() == f"{name} device {name} of a device; {told}"
    else:  # only a word that is wider than the terminal is cut
        assert text.replace(" ", "").startswith(f"{name}device{name}ofadevice;FLOPs12,345,678;")


def test_wide_letters_take_two_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for letters, stacked in ((30, False), (45, True)):
        shown = tabled(capsys, "a.jpg", "\u732b" * letters, columns=("image", "device"))
        assert (shown[1] == "a.jpg") is stacked


def test_one_label_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    labels = tuple((f"class number {n} of a long name", 0.1) for n in range(10))
    found = [
        Prediction(path=Path("photos/of/the/holidays") / f"{n}.jpg", labels=labels) for n in (1, 2)
    ]
    monkeypatch.setattr("mobilenas.onnx.predict.predict", lambda *_: found)
    shown = CliRunner().invoke(cli, ["predict", "model.onnx", "image.png"]).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("photos/of/the/holidays") == 2
    assert shown.count("class number") == 20
    assert shown.count("10.0") == 20


def test_channel_sizes_stand_beside_the_model_s(capsys: pytest.CaptureFixture[str]) -> None:
    space = ChannelsSpace(base=Base.of(MOBILENETS["mobilenet_v3_small"](0.25, 32, 10)))
    show_arch(space.arch(space.largest()).to_dict())
    lines = capsys.readouterr().out.splitlines()
    assert "Channel sizes of a network of the mobile space" in lines
    for name, size in space.start().items():
        assert any(line.split() == [name, str(size), str(2 * size)] for line in lines)
