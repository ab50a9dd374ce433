"""`torchrun -m mobilenas search` and `train`: one result, whatever happens to a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mobilenas.core.files import read_jsonl

pytestmark = pytest.mark.slow
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
EPOCHS, LAST = 8, 5
DYING = f"""
import os
import signal

from mobilenas.cli.main import main
from mobilenas.core import processes
from mobilenas.train import run

whole_epoch = run._run_epoch


def epoch(trainer):
    if processes.rank() == 1 and trainer.epochs_done == {LAST}:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole_epoch(trainer)


run._run_epoch = epoch
main()
"""
"""The command, of which the second process is killed after some epochs."""


def launch(*command: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """A run that two processes have searched."""
    folder = tmp_path_factory.mktemp("torchrun") / "run"
    options = ("--flops", "100k", "--search-epochs", "2", "--warmup", "1", "--finalists", "2")
    options = (*options, "--epochs", str(EPOCHS), "--threads", "1")
    started = ("search", "--data", str(image_folder), *options, "--out", str(folder))
    process = launch(*TORCHRUN, "-m", "mobilenas", *started)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    # one of them reports
    assert said.count("search 2/2") == said.count("Network: ") == 1
    return folder


def test_a_search_by_two_leaves_what_one_leaves(searched: Path) -> None:
    files = {path.relative_to(searched).as_posix() for path in searched.rglob("*.*")}
    assert {"arch.json", "run.json", "search/candidates.json", "search/finalists.json"} <= files
    assert [line["epoch"] for line in read_jsonl(searched / "search/log.jsonl")] == [1, 2]
    assert not [name for name in files if name.endswith(".tmp")]


def test_a_lost_process_ends_the_job_and_one_resumes_it(searched: Path, tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    process = launch(*TORCHRUN, str(tmp_path / "dying.py"), "train", str(searched))
    said, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert f"resume with: mobilenas train {searched}" in said
    log = read_jsonl(searched / "train/log.jsonl")
    assert len(log) == LAST

    process = launch(sys.executable, "-m", "mobilenas", "train", str(searched))
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    whole = read_jsonl(searched / "train/log.jsonl")
    assert [line["epoch"] for line in whole] == list(range(1, EPOCHS + 1))
    assert whole[:LAST] == log
    assert (searched / "model.safetensors").exists()


def test_other_commands_are_for_one_process(searched: Path) -> None:
    process = launch(*TORCHRUN, "-m", "mobilenas", "export", str(searched))
    said, _ = process.communicate(timeout=300)
    assert "torchrun is for `mobilenas search` and `mobilenas train` only" in said
    assert process.returncode != 0
    assert not (searched / "export").exists()
