import contextlib
import os
import platform
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilenas.core.errors import MobileNASError
from mobilenas.core.progress import NullReporter
from mobilenas.latency import measured, meter
from mobilenas.latency.cache import Cache
from mobilenas.latency.kit_runner import Timing
from mobilenas.latency.measured import Failed, Measured
from mobilenas.latency.meter import measure

pytestmark = pytest.mark.usefixtures("idle_machine")


def model(*operations: str, size: int = 8, kind: int = TensorProto.FLOAT) -> bytes:
    """Operations of one input, one after another, on a [1, size] tensor."""
    nodes = [
        helper.make_node(operation, [f"t{index}"], [f"t{index + 1}"])
        for index, operation in enumerate(operations)
    ]
    return serialized(nodes, f"t{len(operations)}", size, kind)


def serialized(
    nodes: list[object], output: str, size: int = 8, kind: int = TensorProto.FLOAT
) -> bytes:
    ends = [helper.make_tensor_value_info(name, kind, [1, size]) for name in ("t0", output)]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:])
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def constant(name: str, values: object, kind: type) -> object:
    return helper.make_node(
        "Constant", [], [name], value=numpy_helper.from_array(np.array(values, kind))
    )


def crashing() -> bytes:
    """-2^31 modulo -1, which onnxruntime does not guard: the processor ends the process."""
    nodes = [constant("low", [-(2**31)], np.int32), constant("zero", 0, np.float32)]
    nodes.append(constant("minus", [-1], np.int32))
    nodes.append(helper.make_node("Mul", ["t0", "zero"], ["nothing"]))
    nodes.append(helper.make_node("Cast", ["nothing"], ["whole"], to=TensorProto.INT32))
    nodes.append(helper.make_node("Add", ["whole", "minus"], ["divisor"]))
    nodes.append(helper.make_node("Mod", ["low", "divisor"], ["never"]))
    nodes.append(helper.make_node("Cast", ["never"], ["t1"], to=TensorProto.FLOAT))
    return serialized(nodes, "t1")


def failing() -> bytes:
    """A model that loads and asks for more memory than there is when it runs."""
    nodes = [
        helper.make_node("ReduceSum", ["t0"], ["sum"], keepdims=0),
        constant("zero", 0, np.float32),
        constant("many", [2**46], np.int64),
        helper.make_node("Mul", ["sum", "zero"], ["none"]),
        helper.make_node("Cast", ["none"], ["shift"], to=TensorProto.INT64),
        helper.make_node("Add", ["many", "shift"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
        helper.make_node("ReduceMax", ["huge"], ["max"], keepdims=0),
        helper.make_node("Add", ["t0", "max"], ["t1"]),
    ]
    return serialized(nodes, "t1")


QUICK = {"small": lambda: model("Relu"), "large": lambda: model(*["Exp"] * 8, size=1_000_000)}


class Reports(NullReporter):
    """Keeps what is reported."""

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        self.act = act
        self.stages: list[tuple[str, int]] = []
        self.steps: list[tuple[int, dict[str, str]]] = []

    def start(self, stage: str, total: int) -> None:
        self.stages.append((stage, total))

    def step(self, done: int, figures: dict[str, str]) -> None:
        self.steps.append((done, figures))
        if figures:
            self.act()


def test_every_model_is_measured_in_its_order(
    byte_clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wavering(meter._Worker):
        rounds = 0

        def time(self, order: list[int], expected_s: float) -> list[Timing]:
            self.rounds += 1
            more = self.rounds % 2
            return [Timing(ns + more, False) for ns, _ in super().time(order, expected_s)]

    monkeypatch.setattr(meter, "_Worker", Wavering)
    reports = Reports()
    byte = {"byte": lambda: model("Identity", kind=TensorProto.UINT8)}
    found = measure(
        QUICK | byte, rounds=5, max_rounds=7, tolerance=0, reference="small", reporter=reports
    )
    assert list(found) == ["small", "large", "byte"]
    for one in found.values():
        assert isinstance(one, Measured)
        assert one.rounds == 7
        assert 0 < one.minimum_ms <= one.median_ms
        assert min(one.halves_ms) <= one.median_ms <= max(one.halves_ms)
    sizes = {name: len(make()) for name, make in (QUICK | byte).items()}
    assert len(set(sizes.values())) == 3
    medians = {name: one.median_ms for name, one in found.items()}  # type: ignore[union-attr]
    assert medians == pytest.approx({n: size / 1e6 for n, size in sizes.items()}, rel=0.02)
    assert reports.stages == [("loading models", 3), ("timing", 5), ("timing what varies", 2)]
    assert [done for done, _ in reports.steps] == [1, 2, 3, 1, 2, 3, 4, 5, 1, 2]
    assert {tuple(figures) for _, figures in reports.steps[3:]} == {("models", "small", "left")}


class Steps:
    """A worker whose timings are made up: `timing` of a model's name and its number."""

    orders: list[list[str]]
    timing: Callable[[str, int], Timing]

    def __init__(self, settings: dict[str, object]) -> None:
        self.names: list[str] = []

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def load(self, path: Path, name: str, *, held: bool) -> meter._Answer:
        self.names.append(name)
        return meter._Answer(run_ns=1)

    def time(self, order: list[int], expected_s: float) -> list[Timing]:
        self.orders.append([self.names[index] for index in order])
        return [type(self).timing(name, len(self.orders) - 1) for name in self.orders[-1]]


def made_up(patch: pytest.MonkeyPatch, timing: Callable[[str, int], Timing]) -> list[list[str]]:
    """Let `timing` say how long models take; return the orders in which they are timed."""
    orders: list[list[str]] = []
    members = {"orders": orders, "timing": staticmethod(timing)}
    patch.setattr(meter, "_Worker", type("Made", (Steps,), members))
    patch.setattr(measured, "WIDEST", 0.05)
    return orders


def named(*names: str) -> dict[str, Callable[[], bytes]]:
    return {name: name.encode for name in names}


def test_what_varies_gets_more_rounds_and_the_reference_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quiet, rng = {"ref": 100, "calm": 1000}, np.random.default_rng(0)
    orders = made_up(
        monkeypatch,
        lambda name, _: Timing(quiet.get(name) or int(rng.integers(9000, 11000)), False),
    )
    found = measure(named("calm", "wild", "ref"), reference="ref")
    assert {name: one.rounds for name, one in found.items()} == {  # type: ignore[union-attr]
        "calm": 16,
        "wild": 48,
        "ref": 48,
    }
    assert all(sorted(order) == ["calm", "ref", "wild"] for order in orders[:16])
    assert all(sorted(order) == ["ref", "wild"] for order in orders[16:])
    assert len(set(map(tuple, orders[:16]))) > 3


def test_what_other_programs_disturb_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    # 10 us, and 25 in the rounds during which something else ran: seven of ten
    made_up(monkeypatch, lambda _, n: Timing(25_000, True) if n % 10 < 7 else Timing(10_000, False))
    reports = Reports()
    one = measure(named("beside others"), reporter=reports)["beside others"]
    assert isinstance(one, Measured)
    assert (one.median_ms, one.unsteady) == (0.01, False)
    assert 48 < one.rounds < 96  # until 16 had been left alone
    assert [stage for stage, _ in reports.stages[1:]] == list(meter._STAGES)


@pytest.mark.parametrize(
    "timing",
    [
        pytest.param(lambda n: Timing(25_000, True), id="never alone"),
        pytest.param(lambda n: Timing(10_000 + 9_000 * (n % 2), False), id="of two speeds"),
    ],
)
def test_what_stays_unsteady_is_measured_for_long_and_called_so(
    monkeypatch: pytest.MonkeyPatch, timing: Callable[[int], Timing]
) -> None:
    made_up(monkeypatch, lambda name, n: timing(n) if name == "a" else Timing(10_000, False))
    found = measure(named("a", "b"))
    assert {name: (one.unsteady, one.rounds) for name, one in found.items()} == {  # type: ignore[union-attr]
        "a": (True, 96),
        "b": (False, 16),
    }
    assert found["a"].scaled(2).unsteady  # type: ignore[union-attr]


def test_what_was_unsteady_is_measured_again_instead_of_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    busy = made_up(monkeypatch, lambda name, _: Timing(25_000, name == "a"))
    before = measure(named("a", "b"), cache=Cache(tmp_path))
    assert before["a"].unsteady and len(busy) == 96  # type: ignore[union-attr]
    idle = made_up(monkeypatch, lambda *_: Timing(10_000, False))
    after = measure(named("a", "b"), cache=Cache(tmp_path))
    assert after["a"] == Measured.of([10_000] * 16) and after["b"] == before["b"]
    assert idle == [["a"]] * 16
    assert measure(named("a", "b"), cache=Cache(tmp_path)) == after and len(idle) == 16


def test_the_interval_holds_the_median_19_times_of_20() -> None:
    rng = np.random.default_rng(0)
    for rounds in (16, 48):
        series = (rng.lognormal(0, 0.5, (2000, rounds)) * 1e6).astype(int)
        inside = 0
        for times in series:
            ordered = np.sort(times) / 1e6
            width = 2 * Measured.of(times.tolist()).interval_ms
            (low,) = [
                rank
                for rank in range(rounds // 2)
                if abs(ordered[rounds - 1 - rank] - ordered[rank] - width) < 1e-9
            ]
            inside += ordered[low] <= 1 <= ordered[rounds - 1 - low]
        assert 0.945 <= inside / 2000 <= 0.985


def test_one_round_is_enough_for_a_summary() -> None:
    assert Measured.of([2_000_000]) == Measured(
        median_ms=2, minimum_ms=2, iqr_ms=0, interval_ms=0, rounds=1, halves_ms=(2, 2)
    )


def test_models_that_do_not_run_are_failed_and_the_others_measured(tmp_path: Path) -> None:
    models = {
        "torn": lambda: model("Relu")[:-9],
        "unknown": lambda: model("Relux"),
        "failing": failing,
        "strings": lambda: model("Identity", kind=TensorProto.STRING),
    }
    for _ in range(2):  # the second time from the cache
        found = measure(models | QUICK, rounds=2, max_rounds=2, cache=Cache(tmp_path))
        reasons = {name: one.reason for name, one in found.items() if isinstance(one, Failed)}
        assert list(reasons) == list(models)
        assert "is not an ONNX file that onnxruntime loads: " in reasons["torn"]
        assert "Relux" in reasons["unknown"]
        assert "does not run in onnxruntime: " in reasons["failing"]
        assert "only float and 8-bit inputs" in reasons["strings"]
        assert all(isinstance(found[name], Measured) for name in QUICK)
    log = next(tmp_path.iterdir()).read_text(encoding="utf-8")
    assert log.count('"failed"') == 4
    assert log.count('"ns"') == 2


@pytest.mark.skipif(platform.machine() != "x86_64", reason="others have no trap")
def test_a_model_that_kills_the_worker_is_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loads: list[str] = []

    class Seen(meter._Worker):
        def load(self, path: Path, name: str, *, held: bool) -> meter._Answer:
            loads.append(name)
            return super().load(path, name, held=held)

    monkeypatch.setattr(meter, "_Worker", Seen)
    models = {"small": QUICK["small"], "crash": crashing, "large": QUICK["large"]}
    found = measure(models, rounds=2, max_rounds=2, cache=Cache(tmp_path))
    assert found["crash"] == Failed(
        reason=f"ends the process that measures: signal {signal.SIGFPE.value}"
    )
    assert all(isinstance(found[name], Measured) for name in QUICK)
    assert loads == ["small", "crash", "crash", "small", "large"]
    assert measure(models, rounds=2, max_rounds=2, cache=Cache(tmp_path)) == found


def test_once_much_is_loaded_large_models_are_loaded_anew_for_every_timing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: dict[str, bool] = {}

    class Seen(meter._Worker):
        def load(self, path: Path, name: str, *, held: bool) -> meter._Answer:
            told[name] = held
            return super().load(path, name, held=held)

    monkeypatch.setattr(meter, "_Worker", Seen)
    held = measure(QUICK, rounds=3, max_rounds=3)
    assert all(told.values())
    monkeypatch.setattr(meter, "_SMALL_BYTES", 0)
    monkeypatch.setattr(meter, "_HELD_BYTES", 0)
    anew = measure(QUICK, rounds=3, max_rounds=3)
    assert not any(told.values())
    for name in QUICK:
        first, second = held[name], anew[name]
        assert isinstance(first, Measured) and isinstance(second, Measured)
        assert first.rounds == second.rounds == 3


def test_a_worker_that_is_killed_is_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workers: list[meter._Worker] = []

    class Seen(meter._Worker):
        def __init__(self, settings: dict[str, object]) -> None:
            super().__init__(settings)
            workers.append(self)

    def kill() -> None:
        if len(workers) == 1:
            os.kill(workers[0]._process.pid, signal.SIGKILL)

    monkeypatch.setattr(meter, "_Worker", Seen)
    found = measure(QUICK, rounds=4, max_rounds=4, cache=Cache(tmp_path), reporter=Reports(kill))
    assert len(workers) == 2
    assert [one.rounds for one in found.values()] == [4, 4]  # type: ignore[union-attr]
    assert next(tmp_path.iterdir()).read_text(encoding="utf-8").count("\n") == 4


def test_a_worker_that_always_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter._Worker, "time", lambda worker, *rest: killed(worker))

    def killed(worker: meter._Worker) -> None:
        worker._process.kill()
        worker._ask({"order": []}, "")

    with pytest.raises(MobileNASError, match=r"ended 4 times: signal 9"):
        measure({"small": QUICK["small"]})


def test_a_model_that_never_ends_is_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    flag = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    value = helper.make_tensor_value_info("value", TensorProto.FLOAT, [1, 8])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Sin", ["value"], ["sine"]),
        ],
        "body",
        [helper.make_tensor_value_info("step", TensorProto.INT64, []), flag, value],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sine", TensorProto.FLOAT, [1, 8]),
        ],
    )
    nodes = [
        constant("forever", 2**62, np.int64),
        constant("true", True, np.bool_),
        helper.make_node("Loop", ["forever", "true", "t0"], ["t1"], body=body),
    ]

    class Hasty(meter._Worker):
        """Has no patience with the endless model."""

        def load(self, path: Path, name: str, *, held: bool) -> meter._Answer:
            with monkeypatch.context() as patch:
                if name == "endless":
                    patch.setattr(meter, "_PATIENCE_S", 1.0)
                return super().load(path, name, held=held)

    monkeypatch.setattr(meter, "_Worker", Hasty)
    found = measure({"endless": lambda: serialized(nodes, "t1")} | QUICK, rounds=1, max_rounds=1)
    assert found["endless"] == Failed(reason="ends the process that measures: no answer in 1 s")
    assert isinstance(found["large"], Measured)


SCRIPT = """
import os, signal
from pathlib import Path
from mobilenas.latency.cache import Cache
from mobilenas.latency.meter import measure
from mobilenas.core.progress import NullReporter

class Deadly(NullReporter):
    def step(self, done, figures):
        if figures and done == 3:
            print(Path(f"/proc/self/task/{os.getpid()}/children").read_text(), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

models = {str(path): path for path in sorted(Path().glob("*.onnx"))}
measure(models, rounds=9, max_rounds=9, cache=Cache(Path("cache")), reporter=Deadly())
"""


def wait_for_the_end_of(process: int) -> None:
    """Of one that need not be our child."""
    with contextlib.suppress(ProcessLookupError):  # it has ended
        descriptor = os.pidfd_open(process)
        select.select([descriptor], [], [])
        os.close(descriptor)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_killed_measurement_goes_on_with_the_rounds_it_lacks(tmp_path: Path) -> None:
    for name, make in QUICK.items():
        (tmp_path / f"{name}.onnx").write_bytes(make())
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
    assert done.returncode == -signal.SIGKILL
    (worker,) = map(int, done.stdout.split())
    wait_for_the_end_of(worker)
    assert len(finished(tmp_path)) == 3
    lines = finished(tmp_path)
    models = {path.stem: path for path in tmp_path.glob("*.onnx")}
    wanted = len(lines) + 3
    for _ in range(2):  # the second time there is nothing to do
        found = measure(models, rounds=wanted, max_rounds=wanted, cache=Cache(tmp_path / "cache"))
        assert [one.rounds for one in found.values()] == [wanted] * 2  # type: ignore[union-attr]
        assert finished(tmp_path)[: len(lines)] == lines
        assert len(finished(tmp_path)) == wanted


def finished(folder: Path) -> list[str]:
    texts = [path.read_text(encoding="utf-8") for path in (folder / "cache").glob("*")]
    return [line for text in texts for line in text.splitlines(keepends=True) if line[-1] == "\n"]


def test_the_time_is_bounded() -> None:
    found = measure(QUICK, rounds=10**9, max_rounds=10**9, limit_s=0)
    assert [one.rounds for one in found.values()] == [1, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threads": 0}, "threads is 0"),
        ({"threads": 10**6}, "threads is 1000000; it must be at least 1 and at most"),
        ({"provider": "TPU"}, "provider is 'TPU'; this onnxruntime has CPUExecutionProvider"),
        ({"rounds": 0}, "rounds is 0"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"warmup": -1}, "warmup is -1"),
        ({"reference": "x"}, "the reference 'x' is not one of the models"),
    ],
)
def test_settings_are_checked(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(MobileNASError, match=message):
        measure(QUICK, **wrong)  # type: ignore[arg-type]


def test_nothing_takes_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert measure({}) == {}
    with pytest.raises(MobileNASError, match="does not start: exit status 1"):
        measure(QUICK)


def test_the_parent_does_without_torch_too() -> None:
    code = "import sys, mobilenas.latency.meter; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_what_was_enough_once_stays_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    steadied = {"count": 0}

    def shaky(rounds: list[dict[str, int]]) -> dict[str, list[float]]:
        steadied["count"] += 1  # a round more than wanted would make all look wilder
        names = {name for times in rounds for name in times}
        spread = 1.0 if len(rounds) <= 16 else 3.0
        return {
            name: [1000.0 * (spread if n % 2 else 1) for n, r in enumerate(rounds) if name in r]
            for name in names
        }

    monkeypatch.setattr(meter, "remove_drift", shaky)
    found = measure(QUICK, rounds=16, max_rounds=48)
    assert steadied["count"] == 16
    assert {one.rounds for one in found.values()} == {16}  # type: ignore[union-attr]
