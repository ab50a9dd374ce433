"""A run that is killed in every stage ends as `whole_run`, which was not."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from mobilenas.core.files import read_json, read_jsonl
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import to_plain
from mobilenas.pipeline import stages as pipeline
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.starting import start

pytestmark = pytest.mark.slow

DRIVER = """
import json, sys
from pathlib import Path
from mobilenas.core.progress import NullReporter
from mobilenas.pipeline import stages
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.starting import start
stages.estimate = lambda _: {"search": 0.0}
folder, request = sys.argv[1:]
run = start(Path(folder), Request(**json.loads(request)), command="mobilenas test",
            reporter=NullReporter(), resume=True)
stages.run_all(run)
"""


@pytest.fixture(scope="module")
def killed(
    struck: Any, whole_run: Any, no_estimate: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of the run that was killed in the supernet, finalists, train and compare."""
    folder, request = tmp_path_factory.mktemp("killed") / "run", whole_run.request

    def killed_at(ending: str, nth: int = 2) -> None:
        """Go on with the run until this file would come into place for the n-th time."""
        done = struck(DRIVER, folder, json.dumps(request), at=ending, nth=nth, by=signal.SIGKILL)
        assert done.returncode == -signal.SIGKILL, done.stderr

    killed_at("search/checkpoint.pt")
    assert len(read_jsonl(folder / "search/log.jsonl")) == 1

    killed_at("search/finalists/1/checkpoint.pt", nth=1)
    assert len(read_jsonl(folder / "search/finalists/0/log.jsonl")) == 2
    assert not (folder / "arch.json").exists()

    killed_at("train/checkpoint.pt", nth=1)
    assert len(read_jsonl(folder / "train/log.jsonl")) == 3  # those of the finalist
    assert not (folder / "model.safetensors").exists()

    first = to_plain(pipeline.read_networks(whole_run.folder / "compare.json"))[1]
    training = Path(first["onnx"]).with_name("train")
    killed_at(f"{training}/checkpoint.pt")
    assert len(read_jsonl(folder / training / "log.jsonl")) == 1
    assert not (folder / "compare.json").exists()

    run = start(
        folder, Request(**request), command="mobilenas test", reporter=NullReporter(), resume=True
    )
    pipeline.run_all(run)
    return folder


def test_the_arch_is_the_same(killed: Path, whole_run: Any) -> None:
    resumed, whole = (read_json(f / "arch.json") for f in (killed, whole_run.folder))
    assert {**resumed, "seconds": None} == {**whole, "seconds": None}
    scores = [read_json(f / "search/finalists.json") for f in (killed, whole_run.folder)]
    assert scores[0] == scores[1]


def test_the_logs_have_every_epoch_once(killed: Path, whole_run: Any) -> None:
    for log in ("search/log.jsonl", "train/log.jsonl"):
        resumed, whole = (
            [line | {"seconds": 0} for line in read_jsonl(folder / log)]
            for folder in (killed, whole_run.folder)
        )
        assert resumed == whole


def test_all_weights_are_the_same_to_the_byte(killed: Path, whole_run: Any) -> None:
    names = sorted(
        str(path.relative_to(whole_run.folder)) for path in whole_run.folder.rglob("*.safetensors")
    )
    assert "model.safetensors" in names
    assert any(name.startswith("compare/random-1") for name in names)
    for name in names:
        assert (killed / name).read_bytes() == (whole_run.folder / name).read_bytes(), name


def test_the_result_is_the_same(killed: Path, whole_run: Any) -> None:
    resumed = read_json(killed / "result.json")
    for figure in ("budgets", "flops", "params", "memory", "top1", "files"):
        assert resumed[figure] == whole_run.result[figure]
    for entry, other in zip(resumed["baselines"], whole_run.result["baselines"], strict=True):
        for figure in ("name", "arch", "top1", "val_top1", "flops"):
            assert entry[figure] == other[figure]
