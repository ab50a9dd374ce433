"""The page of a report: one file, no scripts, nothing from a network; all text is escaped."""

from collections.abc import Collection, Iterable, Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5a6475; --page: #ffffff;
  --line: #d8dde5; --shade: #f2f4f8; --good: #1a7f4b; --bad: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e7ee; --soft: #9aa5b5; --page: #14181f;
  --line: #363e4b; --shade: #1e242e; --good: #4cc38a; --bad: #ff7b6b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 64rem; color: var(--ink); background: var(--page);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.4rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem;
  padding-top: .8rem; border-top: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 46rem; }
.verdict { font-size: 1.15rem; margin: 1rem 0; }
.note { color: var(--soft); font-size: .9rem; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 7.5rem; }
tr > :first-child, .left { text-align: left; }
tr.marked td { background: var(--shade); font-weight: 600; }
figure { margin: .8rem 0; max-width: 30rem; }
figure svg { display: block; width: 100%; height: auto; }
figure.wide { max-width: none; overflow-x: auto; }
figure.wide svg { width: auto; max-width: none; }
figcaption { font-size: .9rem; color: var(--soft); position: sticky; left: 0; }
.grid { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); }
.grid figure { margin: 0; } .grid figcaption { color: var(--ink); font-weight: 600; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) minmax(0, 1fr);
  gap: .3rem 1rem; } dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font: .85rem ui-monospace, monospace; }
code { background: var(--shade); padding: .1rem .3rem; border-radius: .2rem;
  overflow-wrap: anywhere; }
pre { background: var(--shade); padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; padding: .4rem 0; }
"""


def text(value: object) -> str:
    """Return any value as text that HTML shows as it is."""
    return escape(str(value))


def paragraph(value: object, kind: str = "") -> str:
    """Return a paragraph; `kind` is verdict, note, good, bad or nothing."""
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{text(value)}</p>"


def code(value: object) -> str:
    """Return something to be typed."""
    return f"<code>{text(value)}</code>"


def missing(what: str, command: str) -> str:
    """Say which command makes what a section would show."""
    return f'<p class="note">{text(what)} is not there yet: {code(command)} makes it.</p>'


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    marked: Collection[int] = (),
    left: Collection[int] = (),
) -> str:
    """Return a table that scrolls by itself; `marked` rows stand out, `left` columns hold words."""

    def cells(tag: str, values: Sequence[object]) -> str:
        return "".join(
            f"<{tag}{_LEFT if column in left else ''}>{text(value)}</{tag}>"
            for column, value in enumerate(values)
        )

    body = "\n".join(
        f"<tr{_MARKED if number in marked else ''}>{cells('td', row)}</tr>"
        for number, row in enumerate(rows)
    )
    head = f"<thead><tr>{cells('th', header)}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>\n{body}\n</tbody></table></div>'


_LEFT = ' class="left"'
_MARKED = ' class="marked"'


def definitions(pairs: Iterable[tuple[str, object]]) -> str:
    """Return names with their values."""
    return f"<dl>{''.join(f'<dt>{text(a)}</dt><dd>{text(b)}</dd>' for a, b in pairs)}</dl>"


def figure(svg: str, caption: str, *, wide: bool = False) -> str:
    """Return a drawing with its caption; a wide one keeps its size and scrolls."""
    mark = ' class="wide"' if wide else ""
    return f"<figure{mark}><figcaption>{text(caption)}</figcaption>{svg}</figure>"


def grid(figures: Iterable[str]) -> str:
    """Return small figures beside each other, under each other on a phone."""
    return f'<div class="grid">{"".join(figures)}</div>'


def details(summary: str, body: str) -> str:
    """Return something that opens when it is asked for."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def section(title: str, body: str) -> str:
    """Return a part of the page under its heading."""
    return f"<section><h2>{text(title)}</h2>\n{body}</section>"


def page(title: str, body: str) -> str:
    """Return the whole file."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body><h1>{text(title)}</h1>\n{body}\n</body></html>\n"
    )
