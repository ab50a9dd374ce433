"""The pages in headless Chromium, driven by Playwright, with the real runtime."""

import asyncio
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("playwright")
from playwright import async_api

from mobilenas.core.errors import MobileNASError
from mobilenas.core.progress import NullReporter
from mobilenas.core.records import read_log
from mobilenas.latency.kit import Manifest
from mobilenas.latency.profile import Profile
from mobilenas.onnx.predict import predict
from mobilenas.web import measurement
from mobilenas.web.profiling import Profiling
from mobilenas.web.records import BrowserMeasurement
from mobilenas.web.runtime import RUNTIME, check_runtime
from mobilenas.web.settings import ServeSettings
from mobilenas.web.trial import WEB_FILE, Trying

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
        check_runtime("wasm")
    except MobileNASError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(measurement, "MAX_ROUNDS", 2)
    monkeypatch.setattr(measurement, "_MAX_RESTS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


async def watched(browser: async_api.Browser, seen: list[str]) -> async_api.Page:
    """Open a page, and remember what it asks for and complains of."""
    page = await browser.new_page()
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: seen.append(request.url))
    return page


async def browse(profiling: Profiling, seen: list[str]) -> None:
    async with async_api.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = await watched(browser, seen)
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


SOFTWARE_GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")


def measured_on_webgpu(kit: Path, ended: str, *, gpu: bool) -> Profile:
    """Measure with a software adapter or none; in the end the page says `ended`."""
    try:
        check_runtime("webgpu")
    except MobileNASError as error:
        pytest.skip(str(error))
    settings = ServeSettings(port=0, backend="webgpu")
    profiling = Profiling(kit, settings, name="phone", rounds=2)

    async def run() -> Profile:
        serving = asyncio.create_task(profiling.serve(NullReporter()))
        async with async_api.async_playwright() as driver:
            browser = await driver.chromium.launch(
                executable_path=BROWSER, args=["--no-sandbox", *SOFTWARE_GPU]
            )
            page = await browser.new_page()
            if gpu:
                await page.goto(profiling.site.home + "page.css")
                if not await page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"):
                    pytest.skip("this chromium has no software adapter of WebGPU")
            else:
                hidden = "Object.defineProperty(navigator, 'gpu', { value: undefined })"
                await page.add_init_script(hidden)
            await page.goto(profiling.site.url)
            await async_api.expect(page.get_by_role("status")).to_contain_text(
                ended, timeout=3 * PATIENCE_MS
            )
            await browser.close()
        return (await serving)[0]

    return asyncio.run(run())


def test_a_page_measures_on_webgpu(kit: Path) -> None:
    profile = measured_on_webgpu(kit, "now has the profile", gpu=True)
    assert (profile.provider, profile.device["gpu"]) == ("webgpu", "google swiftshader")
    assert profile.failures == {"fp32": {}}
    assert profile.calibration["fp32"].networks == 2


def test_a_page_without_webgpu_says_so(kit: Path) -> None:
    with pytest.raises(MobileNASError, match="no WebGPU adapter"):
        measured_on_webgpu(kit, "Stopped: this browser gives the page no", gpu=False)


FAKE_CAMERA = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")


def test_a_page_tries_the_networks_of_a_run(
    whole_run: Any, image_folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole_run.folder, tmp_path / "run"))
    image = next((image_folder / "test").rglob("*.png"))
    expected = predict(run, [image])[0].labels
    seen: list[str] = []
    trying = Trying(run, ServeSettings(port=0))
    expect = async_api.expect

    async def browse() -> None:
        serving = asyncio.create_task(trying.serve(seen.append))
        async with async_api.async_playwright() as driver:
            browser = await driver.chromium.launch(
                executable_path=BROWSER, args=["--no-sandbox", *FAKE_CAMERA]
            )
            page = await watched(browser, seen)
            await page.goto(trying.site.url)
            await expect(page.get_by_label("Images")).to_be_visible(timeout=PATIENCE_MS)
            await page.get_by_label("Images").set_input_files(image)
            await expect(page.locator("#shown")).to_have_text(
                f"{image.name} (1 of 1)", timeout=PATIENCE_MS
            )
            top = await page.locator(".network >> nth=0").locator("li").all_inner_texts()
            assert top == [f"{label}: {100 * share:.1f} %" for label, share in expected]
            await page.get_by_role("button", name="Keep").click()
            await expect(page.get_by_role("status")).to_contain_text("Kept in web.jsonl")
            await page.get_by_role("button", name="Use the camera").click()
            await expect(page.locator("#shown")).to_have_text("The camera", timeout=PATIENCE_MS)
            await expect(page.get_by_role("button", name="Keep")).to_be_enabled(timeout=PATIENCE_MS)
            await page.set_viewport_size({"width": 320, "height": 600})
            assert await page.evaluate("document.documentElement.scrollWidth") == 320
            await browser.close()
        serving.cancel()
        await asyncio.wait([serving])

    asyncio.run(browse())
    (measurement,) = read_log(run / WEB_FILE, BrowserMeasurement)
    assert measurement.latencies["fp32"].images == 20
    asked = [each for each in seen if not each.startswith((trying.site.home, "data:", "blob:"))]
    assert [each for each in asked if not each.startswith(WEB_FILE)] == []
