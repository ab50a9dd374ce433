"""Reports in headless Chromium: nothing complained of, all there, nothing wider than a phone."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mobilenas.report.of_folder import report_of
from mobilenas.report.run_page import SECTIONS

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--hide-scrollbars", "--dump-dom"),
)
# a window cannot be as narrow as a phone: a frame can
FRAME = """<!DOCTYPE html><style>iframe {{ width: 390px; height: 844px; border: 0 }}</style>
<iframe srcdoc="{}"></iframe>
<pre></pre><script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {{
  document.querySelector("pre").textContent = frame.contentDocument.documentElement.outerHTML;
}});
</script>"""
PROBE = """<script>
const page = document.documentElement, told = page.dataset;
told.width = page.clientWidth;
told.overflow = page.scrollWidth - page.clientWidth;
told.ground = getComputedStyle(document.body).backgroundColor;
const wide = [...document.querySelectorAll(".scroll")];
const cut = wide.filter(box => box.scrollWidth > box.clientWidth);
told.cut = cut.length;
told.hinted = cut.filter(
  box => getComputedStyle(box).backgroundAttachment === "local, local, scroll, scroll").length;
told.shaded = wide.filter(box => box.querySelector("figcaption")).length;
told.keys = Math.max(0, ...[...document.querySelectorAll(".key")].map(
  key => key.parentElement.getBoundingClientRect().right));
</script>"""
CLICK = """<script>
for (const button of document.querySelectorAll("details th:nth-child(3) button")) button.click();
</script>"""

pytestmark = pytest.mark.skipif(not BROWSER, reason="there is no chromium on the PATH")
slow = pytest.mark.slow


@dataclass
class Shown:
    """What the browser made of a page."""

    document: str
    complaints: list[str]

    def told(self, name: str) -> str:
        (value,) = re.findall(rf'<html[^>]* data-{name}="(.*?)"', self.document)
        return str(value)

    @property
    def headings(self) -> list[str]:
        return re.findall("<h2>(.*?)</h2>", self.document)


Show = Callable[..., Shown]


@pytest.fixture(scope="module")
def show(tmp_path_factory: pytest.TempPathFactory) -> Show:
    def show(page: str, *flags: str) -> Shown:
        folder = tmp_path_factory.mktemp("shown")
        path, own = folder / "page.html", folder / "browser"
        probed = page.replace("</body>", f"{PROBE}</body>")
        path.write_text(FRAME.format(html.escape(probed)), encoding="utf-8")
        command = [BROWSER, *FLAGS, *flags, f"--user-data-dir={own}", path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        shutil.rmtree(own, ignore_errors=True)
        complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        document = done.stdout[done.stdout.index("<pre>") + 5 : done.stdout.index("</pre>")]
        return Shown(document=html.unescape(document), complaints=complaints)

    return show


@pytest.fixture(scope="module")
def page(whole_run: Any) -> str:
    return report_of(whole_run.folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shown(page: str, show: Show) -> Shown:
    return show(page)


@slow
def test_the_probes_see_what_is_wrong(show: Show) -> None:
    policy = "<meta http-equiv='Content-Security-Policy' content=\"img-src 'none'\">"
    wide = "<div style='width: 500px'>wide</div><img src='data:image/png;base64,AA=='>"
    shown = show(f"<!DOCTYPE html>{policy}<body>{wide}<script>nothing.there</script></body>")
    assert shown.told("width") == "390"
    assert int(shown.told("overflow")) > 100
    assert any("nothing is not defined" in line for line in shown.complaints)
    assert any("Content Security Policy" in line for line in shown.complaints)


def test_a_report_is_whole_and_fits_a_phone(shown: Shown) -> None:
    assert shown.complaints == []
    # no profile was used, and neither ranking nor image sizes were asked for
    empty = {"Latency, predicted and measured", "Ranking quality", "Image size"}
    last = ["Published on ImageNet", "How FLOPs are counted"]
    assert shown.headings == [title for title, _ in SECTIONS[1:] if title not in empty] + last
    assert (shown.told("width"), shown.told("overflow")) == ("390", "0")


def test_what_is_wider_than_a_phone_says_that_there_is_more(shown: Shown) -> None:
    assert int(shown.told("cut")) > 0
    assert shown.told("hinted") == shown.told("cut")
    assert shown.told("shaded") == "0"  # a caption would be read through the shadow
    assert 0 < float(shown.told("keys")) <= 390


@slow
def test_it_follows_the_screen_to_dark(page: str, show: Show) -> None:
    grounds = [
        show(page, f"--blink-settings=preferredColorScheme={scheme}").told("ground")
        for scheme in (1, 0)
    ]
    light, dark = (sum(map(int, re.findall(r"\d+", ground))) for ground in grounds)
    assert light == 3 * 255
    assert dark < 3 * 64


class Cells(HTMLParser):
    """Cells of the body of the last sortable table that lies in details."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tbody":
            self.rows, self._inside = [], True
        elif self._inside and tag == "tr":
            self.rows.append([])
        elif self._inside and tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "tbody"

    def handle_data(self, data: str) -> None:
        if self._inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def layers(document: str) -> list[list[str]]:
    cells = Cells()
    begin = document.index("Cost of each layer")
    cells.feed(document[begin : document.index("</details>", begin)])
    return cells.rows


@pytest.mark.parametrize("clicks", [1, *(pytest.param(n, marks=slow) for n in (2, 3))])
def test_a_click_on_a_head_sorts_and_the_third_brings_the_order_back(
    page: str, show: Show, clicks: int
) -> None:
    before = layers(page)
    flops = [int(row[2].replace(",", "")) for row in before]
    assert flops != sorted(flops, reverse=True)
    shown = show(page.replace("</body>", CLICK * clicks + "</body>"))
    after = layers(shown.document)
    assert shown.complaints == []
    assert sorted(after) == sorted(before)
    expected = {1: sorted(flops, reverse=True), 2: sorted(flops), 3: flops}
    assert [int(row[2].replace(",", "")) for row in after] == expected[clicks]
    assert (after == before) is (clicks == 3)


@slow
def test_a_sweep_is_whole_and_fits_a_phone(whole_run: Any, show: Show, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "sweep" / name).mkdir(parents=True)
        for file in ("run.json", "compare.json", "report.html"):
            shutil.copy(whole_run.folder / file, tmp_path / "sweep" / name)
    path = tmp_path / "sweep/two/compare.json"
    entries = [entry | {"flops": 2 * entry["flops"]} for entry in json.loads(path.read_text())]
    path.write_text(json.dumps(entries))
    shown = show(report_of(tmp_path / "sweep").read_text(encoding="utf-8"))
    assert shown.complaints == []
    assert shown.headings[:3] == ["Runs", "All networks", "The front"]
    assert (shown.told("width"), shown.told("overflow")) == ("390", "0")
