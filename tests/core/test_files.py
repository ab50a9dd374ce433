"""Files are whole or absent, and what is wrong with one is said in our words."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobilenas.core import files
from mobilenas.core.errors import FileError

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(-1e100, 1e100)
    | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.dictionaries(
    NAMES.filter(lambda key: key != "schema_version"), JSON_VALUES, max_size=4
)
# Each example overwrites the file of the one before, which is part of what is tested.
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@same_folder
@given(data=RECORDS)
def test_json_reads_back_what_was_written(tmp_path: Path, data: dict[str, Any]) -> None:
    path = tmp_path / "new folder" / "run.json"
    files.write_json(path, data)
    assert files.read_json(path) == data
    assert next(iter(json.loads(path.read_text()))) == "schema_version"
    assert names(path.parent) == ["run.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "run.json"
    files.write_text(path, "old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", full) if call == "fsync" else (Path, "replace", full)))
    with pytest.raises(FileError, match=r"cannot write .*run\.json: No space left on device"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["run.json"]


def test_a_kill_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    files.write_text(path, "old")

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        with pytest.raises(KeyboardInterrupt):
            files.write_text(path, "new")
    assert path.read_text() == "old"
    # What the kill left beside it does not stand in the way of the next write.
    files.write_text(path, "newer")
    assert path.read_text() == "newer"


def test_content_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (order.append("replace"), replace(self, to))[1]
    )
    files.write_bytes(tmp_path / "weights", b"1234")
    assert order == ["fsync", "replace"]


def test_a_folder_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(FileError, match=r"cannot write .*run\.json"):
        files.write_text(tmp_path / "run.json", "text")
    assert names(tmp_path) == ["run.json"]


def test_a_file_where_a_folder_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(FileError, match=r"cannot write .*run\.json"):
        files.write_text(tmp_path / "runs" / "run.json", "text")
    with pytest.raises(FileError, match=r"cannot write .*log\.jsonl"):
        files.append_jsonl(tmp_path / "runs" / "log.jsonl", {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b'{"schema_version": 2, "flops"', "is not JSON"),
        (b'{"name": "\xff"}', "is not JSON"),
        (b"[]", "holds a list; it must hold an object"),
        (b"null", "holds a NoneType; it must hold an object"),
        (b"{}", "schema_version is None; this release reads 2"),
        (b'{"schema_version": 3}', "schema_version is 3; this release reads 2"),
        (b'{"schema_version": "2"}', "schema_version is '2'; this release reads 2"),
        (b'{"schema_version": true}', "schema_version is True; this release reads 2"),
        (b'{"schema_version": 2.0}', "schema_version is 2.0; this release reads 2"),
        (b'{"schema_version": 2, "top1": NaN}', "top1 is NaN, which is not a legal number"),
        (
            b'{"schema_version": 2, "top1": -Infinity}',
            "top1 is -Infinity, which is not a legal number",
        ),
        (b'{"schema_version": 2, "top1": 1e400}', "top1 is 1e400, which is not a legal number"),
        (b'{"schema_version": 2, "top1": -1e101}', "top1 is -1e101, which is not a legal number"),
        (
            b'{"schema_version": 2, "flops": 9223372036854775808}',
            "flops is 9223372036854775808, which is not a legal number",
        ),
        (
            b'{"schema_version": 2, "flops": ' + b"9" * 400 + b"}",
            "flops is 400 digits, which is not a legal number",
        ),
        (
            b'{"schema_version": 2, "flops": ' + b"9" * 9000 + b"}",
            "flops is 9000 digits, which is not a legal number",
        ),
        (b'{"schema_version": 2, "a": {"b": 1, "b": 1}}', "'b' appears twice in one object"),
        (b'{"schema_version": 2, "schema_version": 2}', "appears twice in one object"),
        (b'{"schema_version": 2, "a": ' + b"[" * 65 + b"]" * 65 + b"}", "more than 64 levels"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b'{"schema_version": 2, "name": "\\ud800"}', "has a character that is not allowed"),
        (b'{"schema_version": 2, "na\\u0000me": 1}', "has a character that is not allowed"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_json_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "arch.json"
    path.write_bytes(content)
    with pytest.raises(FileError) as raised:
        files.read_json(path)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)


def test_a_json_file_that_is_missing_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"arch\.json does not exist"):
        files.read_json(tmp_path / "arch.json")
    with pytest.raises(FileError, match=r"cannot read .* it is a folder, not a file"):
        files.read_json(tmp_path)
    with pytest.raises(FileError, match="/dev/zero: it is a device or a pipe, not a file"):
        files.read_json(Path("/dev/zero"))
    with pytest.raises(FileError, match=r"cannot read .*null"):
        files.read_json(Path("a\0b"))


def test_a_file_of_any_size_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "arch.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: takes no room
    with pytest.raises(FileError, match="has more than 268435456 bytes"):
        files.read_json(path)


def test_a_name_that_is_not_utf8_reads_back_and_is_escaped_in_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    files.write_json(tmp_path / "run.json", {"source": name})
    assert files.read_json(tmp_path / "run.json") == {"source": name}
    files.write_text(tmp_path / "report.html", name)
    assert (tmp_path / "report.html").read_bytes() == b"caf\\udce9"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_never_written(tmp_path: Path, number: float) -> None:
    path = tmp_path / "result.json"
    record = {"top1": 1.0, "networks": [{"name": "a"}, {"costs": {"latency": number}}]}
    writers: list[Callable[[], None]] = [
        lambda: files.write_json(path, record),
        lambda: files.write_list(path, [record]),
        lambda: files.write_jsonl(path, [record]),
        lambda: files.append_jsonl(path, record),
    ]
    for write in writers:
        with pytest.raises(FileError, match=r"networks\[1\]\.costs\.latency is -?(nan|inf)"):
            write()
    assert not path.exists()


@same_folder
@given(records=st.lists(RECORDS, max_size=4))
def test_a_log_reads_back_line_by_line_or_whole(
    tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    whole, lines = tmp_path / "whole.jsonl", tmp_path / "lines.jsonl"
    lines.unlink(missing_ok=True)
    files.write_jsonl(whole, records)
    for record in records:
        files.append_jsonl(lines, record)
    assert files.read_jsonl(whole) == files.read_jsonl(lines) == records
    assert whole.read_bytes() == (lines.read_bytes() if records else b"")


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert files.read_jsonl(tmp_path / "log.jsonl") == []


def test_a_log_cut_anywhere_keeps_its_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    records = [{"step": 1, "name": "Zürich"}, {"step": 2, "loss": 0.25}, {"step": 3}]
    files.write_jsonl(path, records)
    content = path.read_bytes()
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        # The last character of a line is its newline; without it the record is whole all the same.
        ends = [end for end, byte in enumerate(content) if byte == ord("\n")]
        assert files.read_jsonl(path) == records[: sum(cut >= end for end in ends)]


def test_a_broken_line_inside_a_log_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(FileError, match=r"log\.jsonl, line 2 is not JSON"):
        files.read_jsonl(path)


def test_a_checkpoint_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "search" / "checkpoint.pt"
    state = {"epoch": 3, "weights": {"w": torch.arange(6.0).reshape(2, 3)}, "rng": [1, None, "x"]}
    assert files.load_checkpoint(path) is None
    files.save_checkpoint(path, state)
    loaded = files.load_checkpoint(path)
    assert loaded is not None
    assert loaded["epoch"] == 3
    assert loaded["rng"] == [1, None, "x"]
    assert torch.equal(loaded["weights"]["w"], state["weights"]["w"])
    assert names(path.parent) == ["checkpoint.pt"]


def test_a_checkpoint_cut_anywhere_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    files.save_checkpoint(path, {"epoch": 3, "w": torch.arange(600.0)})
    content = path.read_bytes()
    for cut in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:cut])
        with pytest.raises(FileError, match=r"checkpoint\.pt is truncated or damaged"):
            files.load_checkpoint(path)


@pytest.mark.parametrize("content", [b"\x00" * 64, b"a text file\n", b"\x80\x02.", b"(dp0\n."])
def test_a_file_that_is_no_checkpoint_is_an_error_that_names_it(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"checkpoint\.pt is truncated or damaged"):
        files.load_checkpoint(path)


class Planted:
    """Runs `os.mkdir` when unpickled by a reader that trusts its input."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"state": Planted(tmp_path / "ran")}, path)
    with pytest.raises(FileError, match=r"checkpoint\.pt holds more than tensors"):
        files.load_checkpoint(path)
    assert names(tmp_path) == ["checkpoint.pt"]


def rezipped(content: bytes, change: Callable[[dict[str, bytes]], None], how: int) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return buffer.getvalue()


def test_other_archives_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    files.save_checkpoint(path, {"epoch": 3, "w": torch.zeros(10_000)})
    content = path.read_bytes()

    def craft(pickled: bytes) -> Callable[[dict[str, bytes]], None]:
        def change(members: dict[str, bytes]) -> None:
            members[next(name for name in members if name.endswith("data.pkl"))] = pickled

        return change

    encrypted = bytearray(rezipped(content, lambda _: None, zipfile.ZIP_STORED))
    for place in (encrypted.index(b"PK\x01\x02"), encrypted.rindex(b"PK\x01\x02")):
        encrypted[place + 8] |= 1
    stored = zipfile.ZIP_STORED
    wrong = {
        "compressed": rezipped(content, lambda _: None, zipfile.ZIP_DEFLATED),
        "encrypted": bytes(encrypted),
        "another": rezipped(content, lambda members: members.clear(), stored),
        "no stop": rezipped(content, craft(b"\x80\x02}"), stored),
        "deep": rezipped(content, craft(b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b"."), stored),
        "memo": rezipped(content, craft(b"\x80\x02h\x07."), stored),
        "a list": rezipped(content, craft(b"\x80\x02]."), stored),
    }
    for name, damaged in wrong.items():
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=r"checkpoint\.pt") as raised:
            files.load_checkpoint(path)
        assert "\n" not in str(raised.value), name


def test_a_checkpoint_holds_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    files.save_checkpoint(path, {"best": {"w": torch.tensor([1.0, float("nan")])}})
    with pytest.raises(FileError, match=r"best\.w holds NaN"):
        files.load_checkpoint(path)
