from pathlib import Path

from mobilenas.cli.reference import page


def test_the_committed_page_is_what_the_settings_give() -> None:
    committed = Path(__file__).parents[2] / "docs/reference.md"
    assert committed.read_text(encoding="utf-8") == page(), "run `make reference`"
