"""Templates: what they are given is escaped, and what they lack is an error."""

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from mobilenas.core.errors import FileError
from mobilenas.report import page
from mobilenas.report.files import RunFiles
from mobilenas.report.page import missing, number, render
from mobilenas.report.run_page import section

TEMPLATES = sorted(Path(page.__file__).with_name("templates").glob("*.html"))


def test_text_is_escaped_and_markup_is_not() -> None:
    told = missing("<b>", Markup("<i>&amp;</i>"))
    assert told == (
        '<p class="note">&lt;b&gt; does not exist yet: <code><i>&amp;</i></code> makes it.</p>\n'
    )


def test_a_value_that_is_not_given_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="'command' is undefined"):
        render("missing.html", what="it")
    with pytest.raises(FileError, match=r"cannot show 'a part' \(UndefinedError: 'what' is"):
        section(RunFiles(folder=tmp_path), "A part", lambda _: render("missing.html"))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_marks_what_it_is_given_as_safe(path: Path) -> None:
    assert not re.search(r"\|\s*safe|autoescape", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("value", "spec", "spread", "written"),
    [
        (1234.5, ",.1f", None, "1,234.5"),
        (91.5, ".2f", 0.25, "91.50 ± 0.25"),
        (0.0, ".1e", None, "0.0e+00"),
        (None, ".2f", None, "-"),
    ],
)
def test_numbers(value: float | None, spec: str, spread: float | None, written: str) -> None:
    assert number(value, spec, spread) == written
