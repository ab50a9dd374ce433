"""The page of a report: one file, nothing from a network; all text is escaped.

Its one script sorts tables; without it everything is there to read.
"""

from collections.abc import Collection, Iterable, Sequence
from html import escape
from urllib.parse import quote

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5a6475; --page: #ffffff;
  --line: #d8dde5; --shade: #f2f4f8; --good: #1a7f4b; --bad: #c0392b; --link: #1f6bb5;
  --shadow: #1c233073; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e7ee; --soft: #9aa5b5; --page: #14181f;
  --line: #363e4b; --shade: #1e242e; --good: #4cc38a; --bad: #ff7b6b; --link: #7ab8f5;
  --shadow: #aebacc99; } }
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
/* a shadow at the side where there is more; what moves with the content covers it at the end */
.scroll, figure.wide { background:
  linear-gradient(to right, var(--page) 40%, transparent) left / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--page) 40%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to right, var(--shadow), transparent) left / 1.1rem 100% no-repeat,
  linear-gradient(to left, var(--shadow), transparent) right / 1.1rem 100% no-repeat; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
td:first-child, td.left { white-space: normal; overflow-wrap: break-word; max-width: 16rem; }
tr > :first-child, .left { text-align: left; }
tr.marked td, tfoot td { background: color-mix(in srgb, var(--ink) 7%, transparent);
  font-weight: 600; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0;
  text-align: inherit; cursor: pointer; }
th button::after { content: "\\a0\\2195"; opacity: .5; }
th[aria-sort=descending] button::after { content: "\\a0\\2193"; opacity: 1; }
th[aria-sort=ascending] button::after { content: "\\a0\\2191"; opacity: 1; }
.pictures { display: grid; gap: .8rem; font-size: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(6rem, 1fr)); }
.pictures figure { margin: 0; overflow-wrap: anywhere; }
.pictures img { width: 100%; max-width: 8rem; image-rendering: pixelated; display: block; }
.pictures figcaption { font-size: inherit; }
a { color: var(--link); }
figure { margin: .8rem 0; max-width: 30rem; }
figure svg { display: block; width: 100%; height: auto; }
figure.wide { max-width: none; overflow-x: auto; }
figure.wide svg { width: auto; max-width: none; }
.key { display: inline-block; width: .8em; height: .8em; margin-left: .4em; }
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


_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const scales = { "": 1, k: 1e3, M: 1e6, G: 1e9 };
  const number = words => {
    const found = /^([-+]?[\\d,]*\\.?\\d+(?:e[-+]?\\d+)?)([kMG]?)(?: \u00b1.*)?$/.exec(words);
    return found ? Number(found[1].replaceAll(",", "")) * scales[found[2]] : NaN;
  };
  const known = words => words !== "" && words !== "-" && words !== "nan";
  heads.forEach((head, column) => {
    const value = row => row.cells[column].textContent;
    const counts = rows.map(value).filter(known).every(words => !Number.isNaN(number(words)));
    const compare = (a, b) => {
      const one = value(a), other = value(b);
      if (!known(one) || !known(other)) return known(other) - known(one);
      const order = counts ? number(one) - number(other)
        : one.localeCompare(other, undefined, { numeric: true });
      return head.ariaSort === "descending" ? -order : order;
    };
    const turns = counts ? ["descending", "ascending", null] : ["ascending", "descending", null];
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = turns[(turns.indexOf(head.ariaSort) + 1) % 3];
      heads.forEach(other => other.ariaSort = null);
      head.ariaSort = next;
      body.append(...(next ? rows.toSorted(compare) : rows));
    });
  });
}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


class Markup(str):
    """Text that is HTML already."""


def text(value: object) -> str:
    """Return any value as text that HTML shows as it is; markup stays markup."""
    return value if isinstance(value, Markup) else escape(str(value))


def link(path: str, label: object) -> Markup:
    """Return a link to a file, relative to the page."""
    return Markup(f'<a href="{text(quote(path))}">{text(label)}</a>')


def paragraph(value: object, kind: str = "") -> str:
    """Return a paragraph; `kind` is verdict, note, good, bad or nothing."""
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{text(value)}</p>"


def code(value: object) -> str:
    """Return something to be typed."""
    return f"<code>{text(value)}</code>"


class Missing(Markup):
    """What is to be done before a section can be shown."""


def missing(what: str, command: str) -> Missing:
    """Say which command makes what a section would show."""
    return Missing(f'<p class="note">{text(what)} is not there yet: {code(command)} makes it.</p>')


def legend(keys: Iterable[tuple[str, str]]) -> str:
    """Return names, each with a square of its colour."""
    return ", ".join(
        f'<span class="key" style="background: {colour}"></span> {text(name)}'
        for name, colour in keys
    )


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    marked: Collection[int] = (),
    left: Collection[int] = (),
    total: Sequence[object] = (),
    sortable: bool = False,
) -> str:
    """Return a table that scrolls by itself; `marked` rows stand out, `left` columns hold words.

    A click on a head of a `sortable` one sorts its rows; `total` stays below them.
    """

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
    foot = f"<tfoot><tr>{cells('td', total)}</tr></tfoot>" if total else ""
    kind = ' class="sortable"' if sortable else ""
    return f'<div class="scroll"><table{kind}>{head}<tbody>\n{body}\n</tbody>{foot}</table></div>'


_LEFT = ' class="left"'
_MARKED = ' class="marked"'


def definitions(pairs: Iterable[tuple[str, object]]) -> str:
    """Return names with their values."""
    return f"<dl>{''.join(f'<dt>{text(a)}</dt><dd>{text(b)}</dd>' for a, b in pairs)}</dl>"


def figure(svg: str, caption: str, *, wide: bool = False) -> str:
    """Return a drawing with its caption; a wide one keeps its size and scrolls."""
    mark = ' class="wide"' if wide else ""
    return f"<figure{mark}><figcaption>{text(caption)}</figcaption>{svg}</figure>"


def pictures(shown: Iterable[tuple[str, str, str]]) -> str:
    """Return small pictures, each a PNG file in base64, with two lines below it."""
    figures = "".join(
        f'<figure><img alt="" src="data:image/png;base64,{text(png)}">'
        f"<figcaption>{text(first)}<br>{text(second)}</figcaption></figure>"
        for png, first, second in shown
    )
    return f'<div class="pictures">{figures}</div>'


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
    """Return the whole file; the script is in it where a table can be sorted."""
    script = f"<script>{_SCRIPT}</script>" if 'class="sortable"' in body else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body><h1>{text(title)}</h1>\n{body}\n{script}</body></html>\n"
    )
