"""Baselines that runs of a sweep have in common: who trains them, and what comes of it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobilenas.baselines.networks import ComparedNetwork
from mobilenas.core import folders
from mobilenas.core.folders import unlock_folders
from mobilenas.core.progress import NullReporter
from mobilenas.cost.budget import Budget
from mobilenas.data import DataSettings, ImageData
from mobilenas.pipeline import run_folder as runs
from mobilenas.pipeline import training
from mobilenas.pipeline.run_folder import Run, create_run
from mobilenas.pipeline.settings import RunSettings
from mobilenas.pipeline.training import recipe_of, train_compared, train_shared
from mobilenas.search import FinalistSettings, SearchSettings
from mobilenas.spaces.cell.space import CellSpace
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.train import Recipe, TrainResult

SETTINGS = RunSettings(
    data=DataSettings(source="digits"),
    budgets=(Budget(cost="flops", limit=10**6),),
    search=SearchSettings(epochs=2, warmup=1, batch_size=16),
    finalists=FinalistSettings(count=2, epochs=1),
    recipe=Recipe(epochs=2, batch_size=32, learning_rate=0.05, warmup_epochs=0.0),
)
FILES = ("best.safetensors", "last.safetensors", "log.jsonl", "train.json")


@pytest.fixture
def network(micro_space: MobileSpace) -> ComparedNetwork:
    arch = micro_space.arch(micro_space.smallest())
    return ComparedNetwork(name="mobilenet_v2 x0.1", kind="mobilenet", arch=arch, seed=0)


@pytest.fixture
def run_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    micro_space: MobileSpace,
    micro_images: ImageData,
) -> Callable[..., Run]:
    """Makes a run of a sweep with some method and other settings."""
    monkeypatch.setattr(runs, "usable_space", lambda *_: micro_space)

    def make(method: str, **how: Any) -> Run:
        settings = replace(SETTINGS, method=method, **how)
        folder = tmp_path / f"flops-1M-{method}"
        given = {"data": micro_images, "command": "test", "reporter": NullReporter()}
        run = create_run(folder, settings, resume=True, **given)
        run.shared = tmp_path / "baselines"
        return run

    return make


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the networks that are trained."""
    trained = list[str]()
    monkeypatch.setattr(NullReporter, "start", lambda _, stage, __: trained.append(stage))
    return trained


def files(run: Run, network: ComparedNetwork) -> dict[str, bytes]:
    folder = run.folder / "compare" / network.folder / "train"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    return {name: (folder / name).read_bytes() for name in FILES[:3]}


def test_runs_of_several_methods_train_a_baseline_once(
    run_of: Callable[..., Run], network: ComparedNetwork, trainings: list[str], tmp_path: Path
) -> None:
    first, second, alone = (run_of(method) for method in ("darts", "adarts", "da2s"))
    trained = train_compared(first, network)
    taken = train_compared(second, network)
    assert trainings == [network.name]
    assert (trained.trained_in, taken.trained_in) == (None, "flops-1M-darts")
    assert taken.seconds == trained.seconds > 0
    assert files(first, network) == files(second, network)
    # and it is what a run alone has
    alone.shared = None
    own = train_compared(alone, network)
    assert own.val_top1 == trained.val_top1
    weights = "compare/mobilenet_v2-x0.1-seed-0/train/best.safetensors"
    assert (alone.folder / weights).read_bytes() == files(second, network)["best.safetensors"]
    assert len(list((tmp_path / "baselines").iterdir())) == 1
    # what is there is read, and not taken again
    trainings.clear()
    train_shared(second, [network])
    assert train_compared(second, network) == taken
    assert not trainings


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"name": "random-1", "kind": "random", "seed": 2}, {"kind": "scratch"}]
)
def test_other_trainings_are_apart(
    run_of: Callable[..., Run],
    network: ComparedNetwork,
    trainings: list[str],
    tmp_path: Path,
    other: dict[str, Any],
) -> None:
    train_compared(run_of("darts"), network)
    result = train_compared(run_of("adarts"), replace(network, **other))
    assert result.trained_in is None and len(trainings) == 2
    # what depends on the search is not shared
    shared = 1 if other == {"kind": "scratch"} else 2
    assert len(list((tmp_path / "baselines").iterdir())) == shared


def test_another_recipe_or_release_is_another_training(
    run_of: Callable[..., Run], network: ComparedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_compared(run_of("darts"), network)
    longer = run_of("adarts", recipe=replace(SETTINGS.recipe, epochs=3))
    assert train_compared(longer, network).epochs == 3
    monkeypatch.setattr(training, "versions", lambda: {"torch": "1.0"})
    assert train_compared(run_of("da2s"), network).trained_in is None


def test_a_run_goes_on_with_what_another_left_half(
    run_of: Callable[..., Run], network: ComparedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_of("darts")
    whole.shared = None
    expected = train_compared(whole, network)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(NullReporter, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            train_compared(run_of("adarts"), network)
    other = run_of("da2s")
    assert train_compared(other, network).val_top1 == expected.val_top1
    weights = "compare/mobilenet_v2-x0.1-seed-0/train/last.safetensors"
    assert (other.folder / weights).read_bytes() == (whole.folder / weights).read_bytes()
    assert train_compared(run_of("adarts"), network).trained_in == "flops-1M-da2s"


def test_what_an_earlier_release_began_goes_on_in_the_run(
    run_of: Callable[..., Run], network: ComparedNetwork, tmp_path: Path
) -> None:
    run = run_of("darts")
    run.shared = None
    train_compared(run, network)
    (run.folder / "compare" / network.folder / "train/train.json").unlink()
    run.shared = tmp_path / "baselines"
    train_shared(run, [network])
    assert train_compared(run, network).trained_in is None
    assert not run.shared.exists()


@pytest.fixture
def other_process() -> Iterator[Callable[[Path], "subprocess.Popen[bytes]"]]:
    """Starts a process that works in a folder until its input ends."""
    started = list[subprocess.Popen[bytes]]()
    code = "import sys; from mobilenas.core.folders import lock_folder; from pathlib import Path"
    code += "; lock_folder(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"

    def start(folder: Path) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen([sys.executable, "-c", code, str(folder)], stdin=pipe, stdout=pipe)
        )
        assert started[-1].stdout is not None and started[-1].stdout.readline() == b"locked\n"
        return started[-1]

    yield start
    for process in started:
        process.communicate()


def test_what_another_run_is_training_comes_last_and_is_waited_for(
    run_of: Callable[..., Run],
    network: ComparedNetwork,
    trainings: list[str],
    other_process: Callable[[Path], "subprocess.Popen[bytes]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = run_of("darts"), run_of("adarts")
    expected = train_compared(first, network)
    unlock_folders()
    free = replace(network, seed=1)
    (shared,) = (first.folder.parent / "baselines").iterdir()
    other = other_process(shared)
    trainings.clear()
    train_shared(second, [network, free])
    assert trainings == [network.name]
    waited = list[float]()

    def wait(seconds: float) -> None:
        waited.append(seconds)
        other.communicate()

    monkeypatch.setattr(folders.time, "sleep", wait)
    results: list[TrainResult] = [train_compared(second, each) for each in (network, free)]
    assert len(waited) == 1 and trainings == [network.name]
    assert [result.trained_in for result in results] == ["flops-1M-darts", None]
    assert results[0].val_top1 == expected.val_top1


def test_mobilenets_beside_cells_are_trained_by_a_recipe_of_their_own(
    run_of: Callable[..., Run], network: ComparedNetwork
) -> None:
    usual = replace(SETTINGS.recipe, learning_rate=0.5)
    run = run_of("darts", space="cell", scratch_recipe=usual)
    space = CellSpace(image_size=16, in_channels=3, classes=10)
    assert recipe_of(run, network.arch, learns=False) == usual
    assert recipe_of(run, space.arch(space.smallest()), learns=False) == SETTINGS.recipe
