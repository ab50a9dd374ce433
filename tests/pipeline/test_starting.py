from pathlib import Path

import pytest

from mobilenas.core.errors import BudgetError, DataError, FileError
from mobilenas.core.progress import NullReporter
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.run_folder import open_run
from mobilenas.pipeline.starting import start


def test_images_that_are_not_there_are_refused(tmp_path: Path) -> None:
    asked = Request(data=str(tmp_path / "nothing"), flops=1000)
    with pytest.raises(DataError, match=r"nothing.*none of digits"):
        start(tmp_path / "run", asked, command="test", reporter=NullReporter())
    assert not (tmp_path / "run").exists()


def test_an_unreachable_budget_names_the_smallest_and_writes_nothing(tmp_path: Path) -> None:
    asked = Request(data="digits", flops=1000)
    with pytest.raises(BudgetError, match="the smallest network of the space has"):
        start(tmp_path / "run", asked, command="test", reporter=NullReporter())
    assert not (tmp_path / "run").exists()


def test_a_started_run_is_opened_again(tmp_path: Path) -> None:
    asked = Request(data="digits", flops=300_000, effort="quick", seed=4)
    run = start(tmp_path / "run", asked, command="test", reporter=NullReporter())
    opened = open_run(tmp_path / "run", NullReporter())
    assert opened.settings == run.settings == asked.settings(len(run.data.train))
    assert opened.space == run.space
    assert opened.data.fingerprint == run.data.fingerprint
    again = start(tmp_path / "run", asked, command="test", reporter=NullReporter(), resume=True)
    assert again.settings == run.settings
    with pytest.raises(FileError, match="seed"):
        other = Request(data="digits", flops=300_000, effort="quick", seed=5)
        start(tmp_path / "run", other, command="test", reporter=NullReporter(), resume=True)
