"""The server of `profile serve`: a browser that measures, and others that do not get in."""

import asyncio
import json
import socket
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, get_args

import pytest

pytest.importorskip("aiohttp")
from aiohttp import ClientSession, CookieJar

from mobilenas.core.errors import MobileNASError
from mobilenas.core.progress import NullReporter
from mobilenas.latency.kit import Manifest
from mobilenas.latency.profile import Profile
from mobilenas.web import site as site_module
from mobilenas.web.profiling import Profiling
from mobilenas.web.records import Work
from mobilenas.web.runtime import FILES, RUNTIME
from mobilenas.web.settings import Backend, ServeSettings

from .conftest import timed
from .pages import Page, Talk, talk

EMPTY = {"number": 0, "ns": {}, "disturbed": [], "failed": {}}


@pytest.fixture(autouse=True)
def without_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The files of onnxruntime-web need not be there; nothing is kept for the next test."""
    monkeypatch.setattr(site_module, "check_runtime", lambda _: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def profiling_of(kit: Path, backend: Backend = "wasm", **more: Any) -> Profiling:
    settings = ServeSettings(port=0, backend=backend)
    return Profiling(kit, settings, name="phone", rounds=2, **more)


async def asked(page: Page) -> Work:
    status, body = await page.get("/work")
    assert status == HTTPStatus.OK
    return Work(**json.loads(body))


async def posted(page: Page, work: Work) -> tuple[int, Any]:
    times = timed(work)
    body = {"number": times.number, "ns": dict(times.ns), "disturbed": [], "failed": {}}
    return await page.post("/rounds", body)


async def measure(page: Page, **opening: Any) -> str:
    await page.open(**opening)
    work = await asked(page)
    while not work.ended:
        status, body = await posted(page, work)
        assert status == HTTPStatus.OK
        work = Work(**body)
    return work.ended


def served(profiling: Profiling, browse: Talk) -> Profile:
    """Let the site serve by itself, as the command does, until it ends."""

    async def run() -> Profile:
        serving = asyncio.create_task(profiling.serve(NullReporter()))
        async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as client:
            await browse(Page(client, profiling.site))
        profile, measurement = await serving
        measurement.forget()
        return profile

    return asyncio.run(run())


def test_a_page_s_rounds_become_a_profile(kit: Path, manifest: Manifest) -> None:
    profiling = profiling_of(kit, threads=4, command="mobilenas test")
    profile = served(profiling, measure)
    assert profile.name == "phone"
    assert profile.device == {
        "cpu": "Pixel 7",
        "cores": 8,
        "os": "Android",
        "browser": "A browser",
    }
    assert (profile.runtime, profile.provider, profile.threads) == (RUNTIME, "wasm", 4)
    assert profile.command == "mobilenas test"
    keys = {model.key for model in manifest.models if model.kind == "unit"}
    assert profile.blocks["fp32"].keys() == keys
    assert profile.failures == {"fp32": {}}


def test_a_page_that_is_loaded_again_and_a_new_server_go_on(kit: Path) -> None:
    async def begin(page: Page) -> int:
        await page.open()
        for _ in range(3):
            await posted(page, await asked(page))
        status, _ = await page.open(token="")  # loaded again: the cookie will do
        assert status == HTTPStatus.OK
        return (await asked(page)).number

    async def resume(page: Page) -> tuple[int, int]:
        await page.open()
        same = (await asked(page)).number
        await page.open(isolated=False)  # one thread is another measurement
        return same, (await asked(page)).number

    assert talk(profiling_of(kit, threads=4).site, begin) == [3]
    assert talk(profiling_of(kit, threads=4).site, resume) == [(3, 0)]


def test_webgpu_is_another_profile(kit: Path) -> None:
    async def begin(page: Page) -> int:
        await page.open(gpu="arm valhall")  # a page of WebAssembly does not say it
        await posted(page, await asked(page))
        return (await asked(page)).number

    async def resume(page: Page) -> tuple[int, str]:
        _, opened = await page.open(gpu="arm valhall")
        return (await asked(page)).number, opened["runtime"]

    assert talk(profiling_of(kit).site, begin) == [1]
    webgpu = profiling_of(kit, "webgpu")
    assert talk(webgpu.site, resume) == [(0, f"{RUNTIME}, WebGPU on arm valhall")]
    profile = served(profiling_of(kit, "webgpu"), partial(measure, gpu="arm valhall"))
    assert (profile.runtime, profile.provider, profile.threads) == (RUNTIME, "webgpu", 1)
    assert profile.device["gpu"] == "arm valhall"


def test_nothing_stands_in_for_a_missing_gpu(kit: Path) -> None:
    async def browse(page: Page) -> None:
        status, answer = await page.open()
        assert (status, "no WebGPU adapter" in answer["error"]) == (422, True)

    with pytest.raises(MobileNASError, match="no WebGPU adapter"):
        served(profiling_of(kit, "webgpu"), browse)
    with pytest.raises(MobileNASError, match="--threads 2 does not go with --backend webgpu"):
        profiling_of(kit, "webgpu", threads=2)


@pytest.mark.parametrize("backend", get_args(Backend))
def test_the_page_is_given_its_backend(kit: Path, backend: Backend) -> None:
    async def browse(page: Page) -> bytes:
        return (await page.get("/backend.js"))[1]

    (module,) = talk(profiling_of(kit, backend).site, browse)
    assert f'executionProviders: ["{backend}"]'.encode() in module
    assert f"./ort/{FILES[backend][0]}".encode() in module


def test_threads_are_what_the_browser_has(kit: Path) -> None:
    async def browse(page: Page) -> list[int]:
        openings = [{"isolated": False}, {"cores": 2}, {}]
        return [(await page.open(**each))[1]["threads"] for each in openings]

    assert talk(profiling_of(kit, threads=4).site, browse) == [[1, 2, 4]]


def test_only_the_session_gets_in(kit: Path, manifest: Manifest) -> None:
    model = f"/models/{manifest.models[0].sha256}"

    async def browse(page: Page) -> list[int]:
        tokens = ("", "x", page.token[:-1], page.token + "x", "\u00e9")
        opened = [(await page.open(token))[0] for token in tokens]
        got = [(await page.get(path))[0] for path in ("/work", model)]
        refused, _ = await page.post("/rounds", EMPTY)
        return [*opened, *got, refused]

    assert set(talk(profiling_of(kit).site, browse)[0]) == {HTTPStatus.FORBIDDEN}


def test_a_cookie_that_is_no_text_is_wrong(kit: Path) -> None:
    async def browse(page: Page) -> bytes:
        await page.open()
        host, _, port = page.home.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        cookie = f"mobilenas-{port}=".encode() + b"\xff"
        writer.write(b"GET /work HTTP/1.1\r\nHost: x\r\nCookie: " + cookie + b"\r\n\r\n")
        line = await reader.readline()
        writer.close()
        return line

    assert talk(profiling_of(kit).site, browse) == [b"HTTP/1.1 403 Forbidden\r\n"]


def test_the_token_opens_one_session(kit: Path) -> None:
    async def browse(page: Page) -> int:
        return (await page.open())[0]

    statuses = talk(profiling_of(kit).site, *[browse] * 50)
    assert sorted(statuses) == [HTTPStatus.OK] + [HTTPStatus.FORBIDDEN] * 49


def test_fifty_posts_of_one_round_count_once(kit: Path) -> None:
    async def browse(page: Page) -> tuple[list[int], int]:
        await page.open()
        work = await asked(page)
        answers = await asyncio.gather(*(posted(page, work) for _ in range(50)))
        return sorted(status for status, _ in answers), (await asked(page)).number

    statuses, number = talk(profiling_of(kit).site, browse)[0]
    assert statuses == [HTTPStatus.OK] + [HTTPStatus.CONFLICT] * 49
    assert number == 1


def test_nothing_but_the_kit_s_models_is_read(kit: Path, manifest: Manifest) -> None:
    async def browse(page: Page) -> list[int]:
        await page.open()
        sound, content = await page.get(f"/models/{manifest.models[0].sha256}")
        assert (sound, content) == (200, (kit / manifest.models[0].file).read_bytes())
        paths = [
            *("/models/0000-fp32-unit.onnx", "/models/..%2Fmanifest.json"),
            *("/models/%2Fetc%2Fpasswd", "/models/%00", "/models/" + "0" * 64),
            *("/../pyproject.toml", "/..%2F__init__.py", "/ort/..%2Fpage.css"),
            *("/ort/", "/records.py", "/manifest.json"),
        ]
        return [(await page.get(path))[0] for path in paths]

    assert set(talk(profiling_of(kit).site, browse)[0]) == {HTTPStatus.NOT_FOUND}


def test_bodies_are_small_and_of_the_schema(kit: Path) -> None:
    async def browse(page: Page) -> list[int]:
        await page.open()
        work = await asked(page)
        times = timed(work)
        good = {"number": 0, "ns": dict(times.ns), "disturbed": [], "failed": {}}
        bodies: list[Any] = [
            {**good, "more": 1},
            {**good, "number": "0"},
            {**good, "ns": {key: -ns for key, ns in times.ns.items()}},
            {**good, "ns": {**times.ns, "f" * 64: 1}},
            {**good, "failed": {"f" * 64: "no"}},
            "[]",
            "{",
            b"\xff",
        ]
        statuses = [(await page.post("/rounds", body))[0] for body in bodies]
        assert set(statuses) == {HTTPStatus.UNPROCESSABLE_ENTITY}
        async with page.client.post(page.home + "/rounds", data=b" " * 70_000) as answer:
            assert answer.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE
        headers = {"Content-Type": "application/json"}
        url = page.home + "/rounds"
        async with page.client.post(url, data=b" " * 70_000, headers=headers) as answer:
            assert answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        return (await asked(page)).number

    assert talk(profiling_of(kit).site, browse) == [0]


def test_a_client_that_disappears_changes_nothing(kit: Path) -> None:
    async def browse(page: Page) -> int:
        await page.open()
        host, _, port = page.home.removeprefix("http://").partition(":")
        for sent in (b"", b"POST /rounds HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n{"):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(sent)
            await writer.drain()
            writer.close()
        await posted(page, await asked(page))
        return (await asked(page)).number

    assert talk(profiling_of(kit).site, browse) == [1]


def test_an_address_that_asks_too_often_waits(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_module, "PER_SECOND", 0)

    async def browse(page: Page) -> list[int]:
        return [(await page.get("/page.css"))[0] for _ in range(site_module.BURST + 2)]

    statuses = talk(profiling_of(kit).site, browse)[0]
    assert statuses[-3:] == [HTTPStatus.OK] + [HTTPStatus.TOO_MANY_REQUESTS] * 2


def test_every_answer_isolates_the_page(kit: Path) -> None:
    async def browse(page: Page) -> None:
        for path in ("/", "/profile.js", "/style.css", "/work", "/nothing"):
            async with page.client.get(page.home + path) as answer:
                assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
                assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        async with page.client.get(page.home + "/") as answer:
            assert answer.content_type == "text/html"
            assert page.token not in await answer.text()

    talk(profiling_of(kit).site, browse)


def test_a_model_that_was_changed_is_not_served(
    kit: Path, manifest: Manifest, tmp_path: Path
) -> None:
    copy = tmp_path / "kit"
    (copy / "models").mkdir(parents=True)
    (copy / "manifest.json").write_bytes((kit / "manifest.json").read_bytes())
    (copy / manifest.models[0].file).write_bytes(b"another")

    async def browse(page: Page) -> tuple[int, bytes]:
        await page.open()
        return await page.get(f"/models/{manifest.models[0].sha256}")

    status, body = talk(profiling_of(copy).site, browse)[0]
    assert status == HTTPStatus.UNPROCESSABLE_ENTITY
    assert b"was changed" in body


def test_a_device_that_runs_nothing_gives_no_profile(kit: Path) -> None:
    async def fail(page: Page) -> None:
        await page.open()
        work = await asked(page)
        while not work.ended:
            failed = dict.fromkeys((*work.models, *work.references), "no")
            _, body = await page.post(
                "/rounds", {"number": 0, "ns": {}, "disturbed": [], "failed": failed}
            )
            work = Work(**body)

    with pytest.raises(MobileNASError, match="a calibration needs at least 2 networks"):
        served(profiling_of(kit), fail)


def test_a_server_that_nobody_asks_stops(kit: Path) -> None:
    async def nothing(_: Page) -> None: ...

    profiling = Profiling(kit, ServeSettings(port=0, idle=1), name="phone")
    with pytest.raises(MobileNASError, match="no request from a page in 1 s"):
        served(profiling, nothing)


def test_a_port_that_is_taken_is_an_error(kit: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MobileNASError, match=f"cannot listen on 127.0.0.1, port {port}"):
            Profiling(kit, ServeSettings(port=port), name="phone")
