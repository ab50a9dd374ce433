"""The page of `profile serve` in headless Chromium, driven by Playwright, with the real runtime."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("playwright")
from playwright import async_api

from mobilenas.core.errors import MobileNASError
from mobilenas.core.progress import NullReporter
from mobilenas.latency.kit import Manifest
from mobilenas.latency.profile import Profile
from mobilenas.web import measurement
from mobilenas.web.profiling import Profiling
from mobilenas.web.runtime import RUNTIME, check_runtime
from mobilenas.web.settings import ServeSettings

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
PATIENCE_MS = 120_000
NUMBER = re.compile("[0-9]+")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="there is no chromium on the PATH"),
]


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two rounds are enough for every model, however busy this machine is."""
    try:
        check_runtime()
    except MobileNASError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(measurement, "MAX_ROUNDS", 2)
    monkeypatch.setattr(measurement, "_MAX_RESTS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


async def browse(profiling: Profiling, seen: list[str]) -> None:
    async with async_api.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = await browser.new_page()
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("request", lambda request: seen.append(request.url))
        await page.goto(profiling.site.url)
        rounds = page.locator("#rounds")
        await async_api.expect(rounds).to_have_text("2", timeout=PATIENCE_MS)
        assert "#" not in page.url  # the token is used
        await page.reload()
        await async_api.expect(rounds).to_have_text(NUMBER, timeout=PATIENCE_MS)
        assert int(await rounds.inner_text()) >= 2
        await page.get_by_role("button", name="Pause").click()
        await async_api.expect(page.get_by_role("status")).to_have_text(
            "Paused.", timeout=PATIENCE_MS
        )
        await page.get_by_role("button", name="Continue").press("Enter")
        await async_api.expect(page.get_by_role("status")).to_contain_text(
            "now has the profile", timeout=PATIENCE_MS
        )
        assert "2 threads" in await page.locator("#runtime").inner_text()
        await page.set_viewport_size({"width": 320, "height": 600})
        assert await page.evaluate("document.documentElement.scrollWidth") == 320
        await browser.close()


def test_a_page_measures_a_space(kit: Path, manifest: Manifest) -> None:
    seen: list[str] = []
    profiling = Profiling(kit, ServeSettings(port=0), name="phone", threads=2, rounds=2)

    async def run() -> Profile:
        serving = asyncio.create_task(profiling.serve(NullReporter()))
        await browse(profiling, seen)
        return (await serving)[0]

    profile = asyncio.run(run())
    assert [each for each in seen if not each.startswith((profiling.site.home, "data:"))] == []
    assert (profile.runtime, profile.threads) == (RUNTIME, 2)
    assert "HeadlessChrome" in str(profile.device["browser"])
    assert profile.failures == {"fp32": {}}
    assert profile.calibration["fp32"].networks == 2
