"""A run that is killed in every stage ends as `whole_run`, which was not."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobilenas import pipeline
from mobilenas.files import load_checkpoint, read_json, read_jsonl
from mobilenas.progress import Silent
from mobilenas.request import Request, start
from mobilenas.runs import open_run

pytestmark = pytest.mark.slow

DRIVER = """
import json, sys
from pathlib import Path
from mobilenas.pipeline import run_all
from mobilenas.progress import Silent
from mobilenas.request import Request, start
folder, request = sys.argv[1:]
run_all(start(Path(folder), Request(**json.loads(request)), command="mobilenas test",
              reporter=Silent(), resume=True))
"""
PATIENCE_S = 120


def lines(path: Path) -> int:
    return len(read_jsonl(path))


def kill_when(folder: Path, request: dict[str, Any], moment: Callable[[], bool]) -> None:
    """Go on with the run in a process of its own and kill it as soon as `moment` has come."""
    command = [sys.executable, "-c", DRIVER, str(folder), json.dumps(request)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + PATIENCE_S
    try:
        while not moment():
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < until, "the moment did not come"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def finalists(folder: Path) -> int:
    return len((load_checkpoint(folder / "search/finalists.pt") or {"scores": []})["scores"])


@pytest.fixture(scope="module")
def killed(whole_run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of the run that was killed in the supernet, finalists, train and compare."""
    folder, request = tmp_path_factory.mktemp("killed") / "run", whole_run.request
    where = []

    search_log = folder / "search/log.jsonl"
    kill_when(folder, request, lambda: lines(search_log) >= 1)
    if lines(search_log) < request["search_epochs"]:
        where.append("supernet")

    kill_when(folder, request, (folder / "search/finalists.pt").exists)
    settings = open_run(folder, Silent()).settings.finalists
    if 0 < finalists(folder) < sum(settings.rungs(request["finalists"])):
        where.append("finalists")
    assert not (folder / "arch.json").exists()

    train_log = folder / "train/log.jsonl"
    kill_when(folder, request, lambda: lines(train_log) >= 1)
    if lines(train_log) < request["epochs"]:
        where.append("train")
    assert not (folder / "model.safetensors").exists()

    first = pipeline.read_networks(whole_run.folder / "compare.json")[1]
    compare_log = (folder / first["onnx"]).with_name("train") / "log.jsonl"
    kill_when(folder, request, lambda: lines(compare_log) >= 1)
    if lines(compare_log) < request["epochs"]:
        where.append("compare")
    assert not (folder / "compare.json").exists()

    run = start(
        folder, Request(**request), command="mobilenas test", reporter=Silent(), resume=True
    )
    pipeline.run_all(run)
    return folder, where


def test_it_was_killed_in_the_middle_of_every_stage(killed: tuple[Path, list[str]]) -> None:
    assert killed[1] == ["supernet", "finalists", "train", "compare"]


def test_the_arch_is_the_same(killed: tuple[Path, list[str]], whole_run: Any) -> None:
    resumed, whole = (read_json(f / "arch.json") for f in (killed[0], whole_run.folder))
    assert {**resumed, "seconds": None} == {**whole, "seconds": None}
    scores = [read_json(f / "search/finalists.json") for f in (killed[0], whole_run.folder)]
    assert scores[0] == scores[1]


def test_the_logs_have_every_epoch_once(killed: tuple[Path, list[str]], whole_run: Any) -> None:
    for log in ("search/log.jsonl", "train/log.jsonl"):
        resumed, whole = (
            [line | {"seconds": 0} for line in read_jsonl(folder / log)]
            for folder in (killed[0], whole_run.folder)
        )
        assert resumed == whole


def test_all_weights_are_the_same_to_the_byte(
    killed: tuple[Path, list[str]], whole_run: Any
) -> None:
    names = sorted(
        str(path.relative_to(whole_run.folder)) for path in whole_run.folder.rglob("*.safetensors")
    )
    assert "model.safetensors" in names
    assert any(name.startswith("compare/random-1") for name in names)
    for name in names:
        assert (killed[0] / name).read_bytes() == (whole_run.folder / name).read_bytes(), name


def test_the_result_is_the_same(killed: tuple[Path, list[str]], whole_run: Any) -> None:
    resumed = read_json(killed[0] / "result.json")
    for figure in ("budgets", "flops", "params", "memory", "top1", "files"):
        assert resumed[figure] == whole_run.result[figure]
    for entry, other in zip(resumed["baselines"], whole_run.result["baselines"], strict=True):
        for figure in ("name", "arch", "top1", "val_top1", "flops"):
            assert entry[figure] == other[figure]
