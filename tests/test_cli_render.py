"""What a person reads: archs, tables, labels, help."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mobilenas.cli.main import cli
from mobilenas.cli.render import show_arch, show_certificate, show_table
from mobilenas.cost import costs
from mobilenas.export.predict import Prediction
from mobilenas.spaces import CELL_NETWORKS, MOBILENETS, WidthsSpace, parse_genotype
from mobilenas.spaces.widths import Base


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


def test_where_there_is_no_budget_there_is_no_certificate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_certificate([])
    assert capsys.readouterr().out == ""
    show_certificate([{"cost": "flops", "limit": 5, "predicted": 4, "holds": True}])
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


@pytest.mark.parametrize("length", [5, 60, 200])
def test_a_table_of_long_words_folds_them_and_keeps_every_figure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    word, figures = "abcdefghij" * (length // 5), ("12,345,678", "0.123", "97.2 ± 0.4")
    row = (word[:length], word[-length:], *figures)
    show_table("Title", ("name", "device", "FLOPs", "ms", "top-1 %"), [row], words=("device",))
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    for figure in figures:
        assert sum(figure in line for line in shown) == 1
    columns = [line[:80] for line in shown[3:] if line.strip()]
    letters = "".join(char for line in columns for char in line if char.isalpha())
    assert len(letters) == 2 * length


def test_one_label_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    labels = tuple((f"class number {n} of a long name", 0.1) for n in range(10))
    found = [
        Prediction(path=Path("photos/of/the/holidays") / f"{n}.jpg", labels=labels) for n in (1, 2)
    ]
    monkeypatch.setattr("mobilenas.export.predict.predict", lambda *_: found)
    shown = CliRunner().invoke(cli, ["predict", "model.onnx", "image.png"]).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("photos/of/the/holidays") == 2
    assert shown.count("class number") == 20
    assert shown.count("10.0") == 20


def test_channel_sizes_stand_beside_the_model_s(capsys: pytest.CaptureFixture[str]) -> None:
    space = WidthsSpace(base=Base.of(MOBILENETS["mobilenet_v3_small"](0.25, 32, 10)))
    show_arch(space.arch(space.largest()).to_dict())
    lines = capsys.readouterr().out.splitlines()
    assert "Channel sizes of a network of the mobile space" in lines
    for name, size in space.start().items():
        assert any(line.split() == [name, str(size), str(2 * size)] for line in lines)
