"""A few of the damaged files of mutations.py, which reads as many as it is told."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_damaged_files_of_every_kind_are_refused_in_one_line() -> None:
    script = Path(__file__).with_name("mutations.py")
    done = subprocess.run(
        [sys.executable, str(script), "--count", "150"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "150 damaged files, 0 faults" in done.stdout
