"""What --overwrite deletes, and what it refuses to touch."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import append_jsonl, read_json, write_json
from mobilenas.core.folders import (
    ABLATION,
    COMPARISON,
    KIT,
    RUN,
    SWEEP,
    Kind,
    check_folder,
    check_record,
    holding,
    lock_folder,
    start_folder,
    unlock_folders,
)

RECORD = '{"schema_version": 2}'
WRITTEN = (
    *("run.json", "profile.json", "report.html", "search/log.jsonl", "train/best.safetensors"),
    *(
        "search/finalists.pt",
        "search/finalists/0/checkpoint.pt",
        "export/model.int8.uint8.onnx",
        "export/model.ort",
    ),
    *(
        "compare/random-1-seed-0/train/train.json",
        "compare/random-search-seed-0/random-search.json",
    ),
    *("compare/equal-time-seed-0/equal-time.json", "compare/equal-time-seed-0/train/log.jsonl"),
    *("compare/mobilenet_v2-x0.11-seed-3/export/export.json", "repeats/seed-1/arch.json"),
    *(".run.json.12.tmp", "train/.best.safetensors.7.tmp"),
)


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(RECORD)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def replace(folder: Path, kind: Kind = RUN) -> None:
    assert not check_folder(folder, kind, read_json, overwrite=True)
    start_folder(folder, kind)


def refused(folder: Path, kind: Kind = RUN, **how: bool) -> str:
    before = names(folder) if folder.is_dir() else []
    with pytest.raises(FileError) as caught:
        check_folder(folder, kind, read_json, **how)
    assert (names(folder) if folder.is_dir() else []) == before
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_all_that_a_run_writes_is_replaced_and_the_folder_stays(tmp_path: Path) -> None:
    inode = fill(tmp_path, *WRITTEN).stat().st_ino
    replace(tmp_path)
    assert names(tmp_path) == []
    assert tmp_path.stat().st_ino == inode


@pytest.mark.parametrize(
    "name",
    [
        *(
            "thesis.tex",
            "notes/mine.txt",
            "search/notes.txt",
            "export/model.best.onnx",
            ".git/HEAD",
        ),
        *(
            "train/epoch-3.pt",
            "compare/other/model.onnx",
            "repeats/seed-1/run.json",
            "images/a.png",
        ),
    ],
)
def test_what_a_run_does_not_write_is_named_and_kept(tmp_path: Path, name: str) -> None:
    fill(tmp_path, *WRITTEN, name)
    said = refused(tmp_path, overwrite=True)
    assert "holds more than a run" in said
    assert name.split("/")[0] in said
    assert (tmp_path / name).exists()


def test_many_things_are_named_in_part(tmp_path: Path) -> None:
    fill(tmp_path, "run.json", *"abcde")
    assert "a, b, c and 2 more" in refused(tmp_path, overwrite=True)


def test_links_in_a_run_are_not_followed(tmp_path: Path) -> None:
    elsewhere = fill(tmp_path / "elsewhere", "log.jsonl")
    run = fill(tmp_path / "run", "run.json")
    (run / "search").symlink_to(elsewhere)
    assert "search" in refused(run, overwrite=True)
    (run / "search").unlink()
    (run / "arch.json").symlink_to(elsewhere / "log.jsonl")
    assert "arch.json" in refused(run, overwrite=True)
    assert names(elsewhere) == ["log.jsonl"]


@pytest.mark.parametrize(
    "name", ["export", "compare", "train/log.jsonl", "compare/random-1-seed-0"]
)
def test_nothing_is_written_through_a_link_out_of_a_run(tmp_path: Path, name: str) -> None:
    elsewhere = fill(tmp_path / "elsewhere", "model.onnx", "log.jsonl")
    run = fill(tmp_path / "run", "run.json", "train/best.safetensors", "compare/a-seed-0/arch.json")
    (run / "notes").symlink_to(elsewhere)  # is nothing that a run writes
    check_record(run, RUN)
    if (run / name).exists():
        (run / name).rename(run / "notes2")
    (run / name).symlink_to(elsewhere / "log.jsonl" if "." in name else elsewhere)
    with pytest.raises(FileError, match=f"{name} is a link that leads out of"):
        check_record(run, RUN)
    (run / name).unlink()
    (run / name).symlink_to(run / "train", target_is_directory=True)
    check_record(run, RUN)


@pytest.mark.parametrize("record", ["", "{}", "[]", '{"schema_version": 99}', "\x00", "[" * 9])
@pytest.mark.parametrize("kind", [RUN, SWEEP, ABLATION])
def test_a_record_that_cannot_be_read_is_not_replaced(
    tmp_path: Path, kind: Kind, record: str
) -> None:
    (tmp_path / kind.record).write_text(record)
    said = refused(tmp_path, kind, overwrite=True)
    assert kind.record in said
    assert "that can be read is replaced" in said


def test_a_folder_by_a_link_and_the_current_one_are_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fill(tmp_path / "real", *WRITTEN)
    (tmp_path / "link").symlink_to(real)
    replace(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert names(real) == []
    fill(real, *WRITTEN)
    monkeypatch.chdir(real)
    replace(Path())
    assert names(real) == []


def test_an_empty_volume_will_do(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    fill(tmp_path, ".DS_Store")
    assert not check_folder(tmp_path, RUN, read_json)
    start_folder(tmp_path, RUN)
    fill(tmp_path, *WRITTEN, "search/.DS_Store")
    replace(tmp_path)
    assert names(tmp_path) == [".DS_Store", "lost+found", "search", "search/.DS_Store"]
    assert not check_folder(tmp_path, RUN, read_json)


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert "link to nothing" in refused(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    assert "not a directory" in refused(tmp_path / "file", overwrite=True)
    endless = tmp_path / ("n" * 300)
    for use in (
        lambda: check_folder(endless, RUN, read_json),
        lambda: check_record(endless, RUN),
        lambda: start_folder(endless, RUN),
    ):
        with pytest.raises(FileError, match=r"cannot use .*: File name too long"):
            use()


@pytest.mark.parametrize("kind", [RUN, SWEEP, ABLATION, COMPARISON, KIT])
def test_a_kind_is_refused_where_another_lies(tmp_path: Path, kind: Kind) -> None:
    for other in (RUN, SWEEP, ABLATION):
        if other is not kind:
            folder = fill(tmp_path / other.name, other.record)
            assert f"holds {other}" in refused(folder, kind, overwrite=True)
    assert "holds no" in refused(fill(tmp_path / "plain", "README.md"), kind, overwrite=True)


def test_without_being_told_nothing_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path, "run.json")
    assert "resume it: --resume, or replace it: --overwrite" in refused(tmp_path)
    assert check_folder(tmp_path, RUN, read_json, resume=True)
    kit = fill(tmp_path / "kit", "manifest.json")
    assert "--overwrite" not in refused(kit, KIT)


def test_what_a_killed_start_left_is_in_nobodys_way(tmp_path: Path) -> None:
    run = fill(tmp_path / "run", ".run.json.1.tmp", "..profile.json.start.tmp.1.tmp")
    assert not check_folder(run, RUN, read_json)
    start_folder(run, RUN)
    assert names(run) == []
    kit = fill(tmp_path / "kit", "models/0000-fp32-unit.onnx", "run_kit.py", "README.md")
    assert not check_folder(kit, KIT, read_json)
    start_folder(kit, KIT)
    assert names(kit) == []
    device = fill(tmp_path / "device", "profile.json")
    assert "it has profile.json" in refused(device, resume=True)


class KilledError(BaseException):
    """Stands for a kill."""


@contextmanager
def killed_at(moment: int) -> Iterator[None]:
    """Die just before rename or deletion number `moment`."""
    left = iter(range(moment))

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **options: Any) -> Any:
            if next(left, None) is None:
                raise KilledError
            return call(*given, **options)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "unlink", "rmdir"):
            patch.setattr(os, name, counting(getattr(os, name)))
        yield


def test_a_kill_at_any_moment_of_a_replacement_can_be_repeated(tmp_path: Path) -> None:
    moments = 1 + len(names(fill(tmp_path / "count", *WRITTEN)))
    for moment in range(1, moments):
        folder = fill(tmp_path / f"at-{moment}", *WRITTEN)
        with pytest.raises(KilledError), killed_at(moment):
            start_folder(folder, RUN)
        for use in (
            lambda folder=folder: check_folder(folder, RUN, read_json),
            lambda folder=folder: check_record(folder, RUN),
        ):
            with pytest.raises(FileError, match="interrupted; repeat it with --overwrite"):
                use()
        assert not check_folder(folder, RUN, read_json, resume=True)
        replace(folder)
        assert names(folder) == []
    with killed_at(moments):
        start_folder(fill(tmp_path / "whole", *WRITTEN), RUN)


def test_a_stranger_in_a_replacement_that_was_interrupted_is_kept(tmp_path: Path) -> None:
    folder = fill(tmp_path, ".run.json.replaced", "arch.json", "thesis.tex")
    for how in ({"resume": True}, {"overwrite": True}):
        assert "thesis.tex" in refused(folder, **how)


def test_reading_is_the_callers(tmp_path: Path) -> None:
    def read(_: Path) -> None:
        raise MobileNASError("not ours")

    write_json(tmp_path / "run.json", {})
    with pytest.raises(FileError, match="not ours; only a run that can be read"):
        check_folder(tmp_path, RUN, read, overwrite=True)


def test_a_folder_that_is_removed_during_the_work_does_not_come_back(tmp_path: Path) -> None:
    run = tmp_path / "run"
    start_folder(run, RUN)
    write_json(run / "run.json", {})
    check_record(run, RUN)
    write_json(run / "search/candidates.json", {})
    shutil.rmtree(run)
    for write in (write_json, append_jsonl):
        with pytest.raises(FileError, match=r"run\.json is gone: its folder was removed or moved"):
            write(run / "search/log.jsonl", {})
    assert not run.exists()
    start_folder(run, RUN)
    write_json(run / "profile.json", {})
    write_json(run / "run.json", {})
    write_json(tmp_path / "beside.json", {})
    assert names(run) == ["profile.json", "run.json"]


HOLD = """
import sys, time
from pathlib import Path
from mobilenas.core.files import read_json
from mobilenas.core.folders import RUN, check_folder, check_record, start_folder
folder = Path(sys.argv[1])
check_folder(folder, RUN, read_json, resume=True)
start_folder(folder, RUN)
(folder / "run.json").write_text('{"schema_version": 2}')
check_record(folder, RUN)
print("ready", flush=True)
time.sleep(600)
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that works in a folder."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_folder_in_which_another_process_works_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with another_process(folder) as process:
        for how in ({}, {"resume": True}, {"overwrite": True}):
            assert refused(folder, **how) == (
                f"another process is working in {folder}: wait until it ends, or stop it"
            )
        (tmp_path / "link").symlink_to(folder)
        with pytest.raises(FileError, match="another process is working in"):
            check_record(tmp_path / "link", RUN)
        with pytest.raises(FileError, match="another process is working in"):
            start_folder(folder, RUN)
        assert names(folder) == ["run.json"]
        process.kill()
        process.wait()
        # the kill has left no lock, and nothing else
        assert check_folder(folder, RUN, read_json, resume=True)
    assert names(folder) == ["run.json"]


def test_a_process_works_in_several_folders_and_again_in_one(tmp_path: Path) -> None:
    folders = [fill(tmp_path / name, "run.json") for name in ("a", "b")]
    for folder in folders * 2:
        assert check_folder(folder, RUN, read_json, resume=True)
        check_record(folder, RUN)
    shutil.rmtree(folders[0])
    replace(folders[0])
    unlock_folders()
    with another_process(folders[0]):
        check_record(folders[1], RUN)


def test_a_folder_is_held_for_a_while(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with holding(folder, wait=False) as free:
        assert free
    with another_process(folder), holding(folder, wait=False) as free:
        assert not free
    with pytest.raises(KeyError), holding(folder, wait=True):
        raise KeyError
    with another_process(folder):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP, errno.EINVAL])
def test_without_locks_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    folder = fill(tmp_path / "run", "run.json")
    for _ in range(2):
        assert check_folder(folder, RUN, read_json, resume=True)
        check_record(folder, RUN)
    replace(folder)
    lock_folder(tmp_path / "no such folder")
