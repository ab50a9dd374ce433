"""Names of the last release work, with a warning on stderr."""

import pytest

from mobilenas.cli.renamed import renamed


@pytest.mark.parametrize(
    ("old", "new", "warnings"),
    [
        ("--rival --seed 1", "--random-search --seed 1", 1),
        ("--keep 1/4 --none", "--channel-fraction 1/4 --zero-op", 2),
        ("--keep=1/4 --no-none", "--channel-fraction=1/4 --no-zero-op", 2),
        ("--paths mixture", "--sampling softmax", 2),
        ("--paths=single", "--sampling=single-path", 1),
        ("--paths gumbel", "--sampling gumbel", 1),
        ("--keep-weights svd", "--weight-transfer svd", 1),
        (
            "--methods darts:keep=1/2:none=yes,da2s:paths=single --control darts",
            "--methods darts:channel_fraction=1/2:zero_op=yes,da2s:sampling=single-path "
            "--control darts",
            1,
        ),
        ("--edge-weights none --out rival", "--edge-weights none --out rival", 0),
        ("--keep 1/4 -- --keep --paths", "--channel-fraction 1/4 -- --keep --paths", 1),
    ],
)
def test_old_names_become_new_ones(
    old: str, new: str, warnings: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert renamed(old.split()) == new.split()
    out, err = capsys.readouterr()
    assert (out, err.count(" is deprecated; use ")) == ("", warnings)
