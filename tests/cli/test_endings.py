"""Endings from outside: streams that are closed or full, names without end, no memory."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mobilenas.cli import endings, main
from mobilenas.cli.endings import Interrupted, StoppedError, catch_signals, lack_of
from mobilenas.cli.session import quoted, working

PROGRAM = (sys.executable, "-m", "mobilenas")
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of sh in which "$@" is mobilenas."""
    command = ["sh", "-c", line, "sh", *PROGRAM]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("line", "status", "errors"),
    [
        ('"$@" --help >&-', 0, ""),
        ('"$@" methods --json >&- 2>&- <&-', 0, ""),
        ('"$@" methods >/dev/full', 1, "mobilenas: error: stdout: No space left on device\n"),
        ('"$@" --help >/dev/full', 1, "mobilenas: error: No space left on device\n"),
        ('"$@" methods --nope 2>/dev/full', 2, ""),
        ('"$@" methods --nope 2>&-', 2, ""),
    ],
)
@needs_full
def test_streams_that_fail_are_no_traceback(
    tmp_path: Path, line: str, status: int, errors: str
) -> None:
    done = shell(line, tmp_path)
    assert (done.returncode, done.stderr) == (status, errors)


def test_a_closed_stream_gives_its_number_to_no_file(tmp_path: Path) -> None:
    program = (
        "import os\nfrom mobilenas.cli.endings import open_streams\n"
        "open_streams()\nfile = open('model', 'w')\nos.write(1, b'noise')\nprint('more')\n"
    )
    line = f'{sys.executable} -c "{program}" >&- <&-'
    subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True)
    assert (tmp_path / "model").read_text() == ""


@pytest.mark.parametrize(
    "words",
    [
        *(("train",), ("report",), ("compare",), ("export",), ("profile", "flops")),
        *(("predict", "model.onnx"), ("run", "--resume", "--out"), ("sweep", "--resume", "--out")),
        ("run", "--flops", "1M", "--out", "new", "--data"),
    ],
    ids=" ".join,
)
def test_a_name_without_end_is_wrong_input(words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = CliRunner().invoke(main.cli, [*words, "n" * 300])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "out of memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "out of memory",
        ),
        (OSError(28, "No space left on device", "/tmp/x"), "/tmp/x: No space left on device"),
    ],
)
def test_what_the_machine_lacks_is_one_line_with_the_way_on(
    tmp_path: Path, error: Exception, message: str
) -> None:
    (tmp_path / "run.json").write_text("{}")
    with (
        pytest.raises(click.ClickException) as caught,
        working("mobilenas run --out X --resume", tmp_path, quiet=True),
    ):
        raise error
    assert caught.value.exit_code == 1
    assert message in caught.value.message
    assert "resume with: mobilenas run --out X --resume" in caught.value.message

    @click.group(cls=main.Commands)
    def group() -> None:
        raise error

    result = CliRunner().invoke(group, ["run", "--help"])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"mobilenas: error: {message}")


def test_other_errors_keep_their_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"), working("", tmp_path, quiet=True):
        raise RuntimeError("a bug")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_end_a_command_unless_they_are_ignored(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    try:
        signal.signal(number, signal.SIG_IGN)
        catch_signals()
        os.kill(os.getpid(), number)
        signal.signal(number, signal.SIG_DFL)
        catch_signals()
        with pytest.raises(StoppedError) as caught:
            os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)
    assert endings.status_of_signal(caught.value) == 128 + number
    assert Interrupted("", caught.value).exit_code == 128 + number
    assert Interrupted("").exit_code == 130


@pytest.mark.parametrize(
    "name", [b"run", b"my run", b"it's", b"caf\xc3\xa9", b"\xff", b"a\nb'\\", b"-x;rm"]
)
def test_the_way_on_can_be_pasted_whatever_the_name(name: bytes, tmp_path: Path) -> None:
    word = quoted(os.fsdecode(name))
    assert word.isprintable()
    command: Any = ["bash", "-c", f"printf %s {word}"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == name


def test_a_library_that_finds_no_memory_when_it_is_imported_is_named_so() -> None:
    mapping = ImportError("libtorch_cpu.so: failed to map segment from shared object")
    assert lack_of(mapping).startswith("out of memory")
    assert not lack_of(ImportError("No module named 'torch'"))
