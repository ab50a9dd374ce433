from pathlib import Path

import pytest

from mobilenas.core.errors import FileError
from mobilenas.latency.cache import Cache, Rounds, device, fingerprint
from mobilenas.latency.kit_runner import Timing


def test_rounds_and_failures_come_back(tmp_path: Path) -> None:
    log = Cache(tmp_path).rounds("CPUExecutionProvider", 1)
    log.add({"a": Timing(5, False), "b": Timing(7, True)})
    log.add({"a": Timing(6, False)})
    log.fail("c", "c does not run")
    for found in (log, Cache(tmp_path).rounds("CPUExecutionProvider", 1)):
        assert (found.among("ac"), found.among("b"), found.among("c")) == (
            [{"a": Timing(5, False)}, {"a": Timing(6, False)}],
            [{"b": Timing(7, True)}],
            [],
        )
        assert (found.failure("c"), found.failure("a")) == ("c does not run", None)


def test_times_that_were_forgotten_do_not_come_back(tmp_path: Path) -> None:
    log = Rounds(tmp_path / "log.jsonl")
    log.add({"a": Timing(5, True), "b": Timing(7, True)})
    log.forget({"a"})
    log.add({"a": Timing(3, False)})
    for found in (log, Rounds(log.path)):
        assert found.among("ab") == [{"b": Timing(7, True)}, {"a": Timing(3, False)}]


def test_providers_threads_and_devices_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)
    logs = [cache.rounds("CPUExecutionProvider", 1), cache.rounds("CPUExecutionProvider", 2)]
    logs.append(cache.rounds("XnnpackExecutionProvider", 1))
    monkeypatch.setattr("mobilenas.latency.cache.device", lambda: device() | {"cpu": "other"})
    logs.append(cache.rounds("CPUExecutionProvider", 1))
    assert len({log.path for log in logs}) == 4


def test_the_folder_is_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache().folder == tmp_path / "mobilenas" / "latency"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Cache().folder == tmp_path / ".cache" / "mobilenas" / "latency"


@pytest.mark.parametrize("kept", [0, 1, 9])
def test_a_line_torn_by_a_kill_is_dropped_and_the_next_is_whole(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "log.jsonl"
    Rounds(path).add({"a": Timing(5, False)})
    path.write_bytes(path.read_bytes() + b'{"ns": {"a": 6}}\n'[:kept])
    log = Rounds(path)
    assert log.among("a") == [{"a": Timing(5, False)}]
    log.add({"a": Timing(7, False)})
    assert Rounds(path).among("a") == [{"a": Timing(5, False)}, {"a": Timing(7, False)}]


@pytest.mark.parametrize(
    "wrong",
    [
        '{"ns": {"a"',
        '{"ns": {"a": 0}}',
        '{"ns": {"a": 1.5}}',
        '{"ms": {"a": 1}}',
        "[]",
        '{"ns": 3}',
        '{"ns": {"a": 1}, "disturbed": "a"}',
        '{"forgotten": [1]}',
    ],
)
def test_another_damaged_line_is_named(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"ns": {{"a": 5}}}}\n{wrong}\n{{"ns": {{"a": 5}}}}\n', encoding="utf-8")
    with pytest.raises(FileError, match=r"log\.jsonl, line 2.*; delete the line or the file"):
        Rounds(path)


def test_the_device_is_described() -> None:
    described = device()
    assert set(described) == {"cpu", "architecture", "cores", "os", "onnxruntime"}
    assert all(described.values())
    assert fingerprint(described) == fingerprint(dict(reversed(described.items())))
    assert fingerprint(described) != fingerprint(described | {"cores": 99})
