"""What a person reads of an arch."""

from dataclasses import replace

import pytest

from mobilenas.cli.render import show_arch, show_certificate
from mobilenas.cost import costs
from mobilenas.spaces import CELL_NETWORKS, MOBILENETS, parse_genotype


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
