"""A sweep on Ray: what its tasks are asked for, which failures are told how, and Ray itself."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.folders import unlock_folders
from mobilenas.core.progress import NullReporter
from mobilenas.core.records import write_record
from mobilenas.pipeline import on_ray
from mobilenas.pipeline.on_ray import RunsFailedError, connected, run_on_ray
from mobilenas.pipeline.records import ResultRecord
from mobilenas.pipeline.sweep import Sweep, start_sweep

PROGRESS = partial(nullcontext, NullReporter())


class TaskError(Exception):
    """Stands for RayTaskError."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"ray::run\n{cause}")
        self.cause = cause


class StandIn(ModuleType):
    """As much of Ray as is used; tasks are done when they are submitted."""

    def __init__(self, run: Callable[..., object]) -> None:
        super().__init__("ray")
        self.run, self.calls = run, list[Any]()
        self.exceptions = SimpleNamespace(RayError=TaskError)

    def init(self, **how: Any) -> None:
        self.calls.append(how)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def shutdown(self) -> None:
        self.calls.append("shutdown")

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, max_calls: int) -> Callable[[object], "StandIn"]:
        assert max_calls == 1
        return lambda _: self

    def options(self, **resources: Any) -> SimpleNamespace:
        self.calls.append(resources)

        def submit(*arguments: Any) -> SimpleNamespace:
            future = Future[object]()
            try:
                future.set_result(self.run(*arguments))
            except Exception as error:
                future.set_exception(TaskError(error))
            return SimpleNamespace(future=lambda: future)

        return SimpleNamespace(remote=submit)


def result(top1: float = 50.0) -> ResultRecord:
    return ResultRecord(
        budgets=[],
        flops=1,
        params=1,
        memory=1,
        latency_ms=1.0,
        top1=top1,
        verdict="",
        alarms=[],
        differences=[],
        baselines=[],
        files={},
        counting_rule="",
    )


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setattr(on_ray, "write_reports", lambda _: None)  # these runs write no files
    asked = {"data": "digits", "epochs": 1}
    return start_sweep(
        tmp_path / "sweep",
        asked,
        flops=(300_000, 400_000),
        methods=("darts", "adarts"),
        command="mobilenas test",
        reporter=NullReporter(),
    )


def test_every_run_that_is_not_done_is_a_task(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sweep.folder / "flops-300k-adarts"
    folder.mkdir()
    write_record(folder / "result.json", result(7.0))
    (folder / "report.html").touch()
    begun = sweep.folder / "flops-400k-darts"
    begun.mkdir()
    write_record(begun / "result.json", result(8.0))  # killed before its report
    asked = list[Any]()

    def run(*arguments: Any) -> ResultRecord:
        asked.append(arguments)
        return result(len(asked))

    ray = StandIn(run)
    monkeypatch.setitem(sys.modules, "ray", ray)
    results = run_on_ray(sweep, None, PROGRESS)
    assert {name: one.top1 for name, one in results.items()} == {
        "flops-300k-darts": 1,
        "flops-300k-adarts": 7,
        "flops-400k-darts": 2,
        "flops-400k-adarts": 3,
    }
    assert list(results) == list(sweep.requests)
    here = (Path.cwd(), sweep.folder)
    assert asked[0] == (*here, "flops-300k-darts", 8, None, PROGRESS)
    resources = {"num_cpus": 1, "num_gpus": 0, "max_retries": 3}
    assert ray.calls == [
        {"name": f"flops-{name}"} | resources
        for name in ("300k-darts", "400k-darts", "400k-adarts")
    ]


def test_a_run_that_fails_is_named_and_the_others_go_on(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = list[str]()

    def run(_cwd: Path, _folder: Path, name: str, *_: Any) -> ResultRecord:
        if name == "flops-300k-darts":
            raise FileError("x.json is cut")
        if name == "flops-400k-darts":
            raise ZeroDivisionError("by zero")
        done.append(name)
        return result()

    monkeypatch.setitem(sys.modules, "ray", StandIn(run))
    with pytest.raises(RunsFailedError, match="2 of 4 runs failed") as raised:
        run_on_ray(sweep, None, PROGRESS)
    assert "flops-300k-darts: x.json is cut" in str(raised.value)
    assert "flops-400k-darts: ZeroDivisionError: by zero" in str(raised.value)
    assert done == ["flops-300k-adarts", "flops-400k-adarts"]


def test_more_threads_than_cores_are_refused_but_on_a_cluster(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = StandIn(lambda *_: result())
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 0.0})
    with pytest.raises(MobileNASError, match="--threads 1 is more than the 0 cores"):
        run_on_ray(sweep, None, PROGRESS)
    assert len(run_on_ray(sweep, "auto", PROGRESS)) == 4


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[None]:
    """Variables that Ray is given; it keeps a token in the home folder."""
    before = dict(os.environ)
    os.environ["HOME"] = str(tmp_path)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("environment")
def test_ray_sends_nothing_away_and_leaves_signals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn(result)
    monkeypatch.setitem(sys.modules, "ray", ray)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), connected(None, quiet=True):
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert signal.getsignal(signal.SIGTERM) is before
        raise KeyboardInterrupt
    (how, ended) = ray.calls
    assert how["address"] == "local" and not how["log_to_driver"] and not how["include_dashboard"]
    assert ended == "shutdown"


@pytest.mark.usefixtures("environment")
def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(MobileNASError, match=r"pip install 'mobilenas\[ray\]'"),
        connected(None, quiet=True),
    ):
        pass


@pytest.mark.usefixtures("environment")
def test_an_address_without_a_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn(result)
    monkeypatch.setitem(sys.modules, "ray", ray)

    def init(**how: Any) -> None:
        assert how["address"] == "10.0.0.1:1" and "include_dashboard" not in how
        raise ConnectionError("nobody there\nmore")

    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(MobileNASError, match=r"--address 10\.0\.0\.1:1: nobody there$"),
        connected("10.0.0.1:1", quiet=False),
    ):
        pass


def test_a_machine_without_the_folder_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(FileError, match=r"gone is not on .*: all machines need"):
        on_ray._run(gone, gone, "a", 8, None, PROGRESS)


def test_a_run_waits_for_the_process_that_was_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys; from mobilenas.core.folders import lock_folder; from pathlib import Path"
    code += f"; lock_folder(Path({str(tmp_path)!r})); print('locked', flush=True); sys.stdin.read()"
    former = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with former:
        assert former.stdout is not None and former.stdout.readline() == b"locked\n"
        monkeypatch.setattr(on_ray, "_PATIENCE_S", 0)
        with pytest.raises(FileError, match="another process is working in"):
            on_ray._wait_for_former(tmp_path)
        monkeypatch.setattr(on_ray, "_PATIENCE_S", 60)
        monkeypatch.setattr(on_ray.time, "sleep", lambda _: former.communicate())
        on_ray._wait_for_former(tmp_path)
    unlock_folders()


@pytest.fixture
def real() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray is not installed: mobilenas[ray]")
    yield ray


@pytest.mark.slow
@pytest.mark.usefixtures("environment", "real")
def test_a_process_that_dies_is_started_again(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = result(9.0)

    def run(_cwd: Path, folder: Path, name: str, *_: Any) -> Any:
        if name == "flops-300k-darts":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "flops-300k-adarts" and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "flops-400k-darts":
            return 1 / 0
        return done

    monkeypatch.setattr(on_ray, "_run", run)
    told = list[str]()
    monkeypatch.setattr(NullReporter, "info", lambda _, message: told.append(message))
    with connected(None, quiet=True), pytest.raises(RunsFailedError) as raised:
        run_on_ray(sweep, None, PROGRESS)
    assert "2 of 4 runs failed" in str(raised.value)
    assert "flops-300k-darts: WorkerCrashedError" in str(raised.value)
    assert "flops-400k-darts: ZeroDivisionError: division by zero" in str(raised.value)
    assert any("return 1 / 0" in message for message in told)
    assert (sweep.folder / "died").exists()
