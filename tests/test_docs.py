"""The pages of docs/ and the README: widths of lines, links, the model of a tutorial."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from mobilenas.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LONGEST_LINE, LONGEST_CELL = 120, 300
_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def too_wide(text: str) -> Iterator[str]:
    """Yield lines and table cells that are too long, with their number."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip().startswith("|"):
            if len(line) > LONGEST_LINE:
                yield f"{number}: a line of {len(line)}"
            continue
        for cell in re.split(r"(?<!\\)\|", line.strip().strip("|")):
            if len(cell.strip()) > LONGEST_CELL:
                yield f"{number}: a cell of {len(cell.strip())}"


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} (.+)$", re.sub(r"(?ms)^```.*?^```$", "", text), re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.append(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return {
        slug if number == 0 else f"{slug}-{number}"
        for slug in set(found)
        for number in range(found.count(slug))
    }


def dead_links(page: Path) -> Iterator[str]:
    """Yield relative links of a page that lead to no file or no heading."""
    for target in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        file = page.parent / path if path else page
        known = anchors(file.read_text(encoding="utf-8")) if anchor and file.exists() else set()
        if not file.exists() or (anchor and anchor not in known):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert list(dead_links(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_and_cells_are_short(page: Path) -> None:
    assert list(too_wide(page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_that_a_page_names_is_there(page: Path) -> None:
    folders = ("mobilenas", "cli", "bench", "tests", "examples")
    code = [f"/{name_of(file)}" for folder in folders for file in (ROOT / folder).rglob("*.py")]
    named = re.findall(r"`(?:python )?(\w+(?:/\w+)+\.py)", page.read_text(encoding="utf-8"))
    assert [name for name in named if not any(file.endswith(f"/{name}") for file in code)] == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# It's a `page`: 1 + 1\n\n## Again\n\n## Again\n")
    links = ("other.md#its-a-page-1--1", "other.md#again-1", "#own", "other.md", "https://a.b/c")
    dead = ("gone.md", "other.md#again-2", "#none")
    text = "# Own\n" + "".join(f"[a\nb]({link})\n" for link in (*links, *dead)) + "`[x](y)`\n"
    (tmp_path / "page.md").write_text(text)
    assert list(dead_links(tmp_path / "page.md")) == list(dead)


def test_long_lines_and_cells_are_found() -> None:
    row = f"| {'a' * 300} | b |"
    text = f"{'a' * 120}\n{'a' * 121}\n{row}\n{row.replace('b', 'b' * 301)}\n"
    assert list(too_wide(text)) == ["2: a line of 121", "4: a cell of 301"]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_the_model_of_the_tutorial_is_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs/tutorials/your-model.md").read_text(encoding="utf-8")
    model, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "nets.py").write_text(model, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    command = ["channels", "--model", "nets:build", "--image-size", "8", "--graph-only", "--json"]
    graph = json.loads(CliRunner().invoke(cli, command).stdout)
    free = [group for group in graph["groups"] if group["fixed"] is None]
    counts = f"{graph['flops']:,} FLOPs, {graph['params']:,} params"
    assert f"{len(graph['groups'])} groups, {len(free)} can change. {counts}." in page
