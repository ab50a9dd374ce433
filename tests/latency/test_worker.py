import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from mobilenas.core.errors import MobileNASError
from mobilenas.latency import kit_runner, meter
from mobilenas.latency.kit_runner import Timing
from mobilenas.latency.measured import Failed, Measured
from mobilenas.latency.meter import measure
from mobilenas.onnx.export import export_onnx

pytestmark = pytest.mark.usefixtures("idle_machine")


def timed(paths: list[Path], rounds: int = 32, **options: Any) -> list[Measured | Failed]:
    models = {str(path): path for path in paths}
    return list(measure(models, rounds=rounds, max_rounds=rounds, **options).values())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A light and a heavy model; the heavy one has a symbolic batch."""
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for name, channels in (("light", 4), ("heavy", 256)):
        module = nn.Sequential(nn.Conv2d(3, channels, 3), nn.Conv2d(channels, channels, 3))
        paths.append(folder / f"{name}.onnx")
        export_onnx(
            module,
            paths[-1],
            image_size=24,
            channels=3,
            metadata={},
            dynamic_batch=name == "heavy",
        )
    return paths


def test_models_are_timed_in_their_order(models: list[Path], byte_clock: None) -> None:
    timings = timed(models, rounds=5, warmup=1)
    sizes = [path.stat().st_size / 1e6 for path in models]
    assert sizes[0] < sizes[1]
    assert [timing.median_ms for timing in timings] == pytest.approx(sizes)


def test_a_timing_is_of_some_rounds(models: list[Path]) -> None:
    for timing in timed(models, rounds=5, warmup=1):
        assert 0 < timing.minimum_ms <= timing.median_ms
        assert timing.iqr_ms >= 0
        assert timing.rounds == 5
    assert timed([]) == []


def test_rounds_are_interleaved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Runner:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, outputs: None, feed: dict[str, object]) -> None:
            calls.append(self.name)

        def get_inputs(self) -> list[object]:
            return []

    class Here:
        """The worker's bench in this process."""

        def __init__(self, settings: dict[str, Any]) -> None:
            self.bench, self.jobs = kit_runner.Bench(**settings), list[kit_runner.Job]()

        def __enter__(self) -> "Here":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def load(self, path: Path, name: str, *, held: bool) -> meter._Answer:
            self.jobs.append(self.bench.load(path))
            calls.clear()
            return meter._Answer(run_ns=1)

        def time(self, order: list[int], expected_s: float) -> list[Timing]:
            return [self.jobs[number].time() for number in order]

    monkeypatch.setattr(kit_runner.Bench, "_share", lambda *_: None)
    monkeypatch.setattr(kit_runner.Bench, "_open", lambda _, path: Runner(path.stem))
    monkeypatch.setattr(kit_runner, "TIMING_NS", 1)
    monkeypatch.setattr(kit_runner, "timed", lambda run, *_: (run(), Timing(1000, False))[1])
    monkeypatch.setattr(meter, "_Worker", Here)
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.touch()
    timings = timed(paths, rounds=20, warmup=0)
    assert [timing.rounds for timing in timings] == [20, 20, 20]
    # each model's untimed run, then its timed one, which is not repeated
    assert calls[::2] == calls[1::2]
    rounds = [calls[start : start + 6 : 2] for start in range(0, 120, 6)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1


def test_the_time_is_bounded(models: list[Path]) -> None:
    timings = timed(models, rounds=10**9, warmup=1, limit_s=0.5)
    assert timings[0].rounds == timings[1].rounds < 10**9


def test_a_planted_wrong_file_fails_alone(models: list[Path], tmp_path: Path) -> None:
    wrong, gone = tmp_path / "wrong.onnx", tmp_path / "gone.onnx"
    wrong.write_bytes(b"this is not a model")
    sound, torn, missing = timed([models[0], wrong, gone], rounds=1)
    assert isinstance(sound, Measured)
    assert isinstance(torn, Failed) and torn.reason.startswith("is not an ONNX file")
    assert missing == Failed(reason="does not exist")


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"rounds": 0}, {"warmup": -1}])
def test_settings_are_checked(models: list[Path], wrong: dict[str, int]) -> None:
    with pytest.raises(MobileNASError, match=next(iter(wrong))):
        timed(models, **wrong)


def test_the_worker_does_without_torch() -> None:
    code = "import sys, mobilenas.latency.worker; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_worker_that_dies_is_an_error(
    models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(Path("/bin/false")))
    with pytest.raises(MobileNASError, match="exit status 1"):
        timed(models, rounds=1)
