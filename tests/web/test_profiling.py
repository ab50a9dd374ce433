"""The server of `profile serve`: a browser that measures, and others that do not get in."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")
from aiohttp import ClientSession, CookieJar

from mobilenas.core.errors import MobileNASError
from mobilenas.core.progress import NullReporter
from mobilenas.latency.kit import Manifest
from mobilenas.latency.profile import Profile
from mobilenas.web import site as site_module
from mobilenas.web.profiling import Profiling
from mobilenas.web.records import Opening, Work
from mobilenas.web.runtime import PROVIDER, RUNTIME
from mobilenas.web.settings import ServeSettings

from .conftest import timed

OPENING = Opening(browser="A browser", system="Android", model="Pixel 7", cores=8, isolated=True)
EMPTY = {"number": 0, "ns": {}, "disturbed": [], "failed": {}}
Talk = Callable[["Page"], Awaitable[Any]]


class Page:
    """What a browser is to the server; `jar` has its cookies."""

    def __init__(self, client: ClientSession, profiling: Profiling, home: str) -> None:
        self.client, self.profiling, self.home = client, profiling, home
        self.token = profiling.site.url.partition("#")[2]

    async def post(self, path: str, body: Any, **more: Any) -> tuple[int, Any]:
        text = body if isinstance(body, str | bytes) else json.dumps(body)
        headers = {"Content-Type": "application/json"} | more
        async with self.client.post(self.home + path, data=text, headers=headers) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str) -> tuple[int, bytes]:
        async with self.client.get(self.home + path) as answer:
            return answer.status, await answer.read()

    async def open(self, token: str | None = None, **changes: Any) -> tuple[int, Any]:
        plain = {name: getattr(OPENING, name) for name in OPENING.__struct_fields__}
        plain |= {"token": self.token if token is None else token} | changes
        return await self.post("/session", plain)

    async def work(self) -> Work:
        status, body = await self.get("/work")
        assert status == HTTPStatus.OK
        return Work(**json.loads(body))

    async def round(self, work: Work) -> tuple[int, Any]:
        posted = timed(work)
        body = {"number": posted.number, "ns": dict(posted.ns), "disturbed": [], "failed": {}}
        return await self.post("/rounds", body)


@pytest.fixture(autouse=True)
def without_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The files of onnxruntime-web need not be there; nothing is kept for the next test."""
    monkeypatch.setattr(site_module, "check_runtime", lambda: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def profiling_of(kit: Path, **more: Any) -> Profiling:
    return Profiling(kit, ServeSettings(port=0), name="phone", rounds=2, **more)


def talk(profiling: Profiling, *talks: Talk) -> list[Any]:
    """Run what several browsers do at the same time, each with cookies of its own."""

    async def run() -> list[Any]:
        home = profiling.site.home.rstrip("/")

        async def one(each: Talk) -> Any:
            async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as client:
                return await each(Page(client, profiling, home))

        serving = asyncio.create_task(profiling.site.serve())
        found = await asyncio.gather(*map(one, talks))
        serving.cancel()
        await asyncio.wait([serving])
        return found

    return asyncio.run(run())


async def measure(page: Page) -> str:
    await page.open()
    work = await page.work()
    while not work.ended:
        status, body = await page.round(work)
        assert status == HTTPStatus.OK
        work = Work(**body)
    return work.ended


def served(profiling: Profiling, browse: Talk) -> Profile:
    """Let the site serve by itself, as the command does, until it ends."""

    async def run() -> Profile:
        home = profiling.site.home.rstrip("/")
        serving = asyncio.create_task(profiling.serve(NullReporter()))
        async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as client:
            await browse(Page(client, profiling, home))
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
    assert (profile.runtime, profile.provider, profile.threads) == (RUNTIME, PROVIDER, 4)
    assert profile.command == "mobilenas test"
    keys = {model.key for model in manifest.models if model.kind == "unit"}
    assert profile.blocks["fp32"].keys() == keys
    assert profile.failures == {"fp32": {}}


def test_a_page_that_is_loaded_again_and_a_new_server_go_on(kit: Path) -> None:
    async def begin(page: Page) -> int:
        await page.open()
        for _ in range(3):
            await page.round(await page.work())
        status, _ = await page.open(token="")  # loaded again: the cookie will do
        assert status == HTTPStatus.OK
        return (await page.work()).number

    async def resume(page: Page) -> tuple[int, int]:
        await page.open()
        same = (await page.work()).number
        await page.open(isolated=False)  # one thread is another measurement
        return same, (await page.work()).number

    assert talk(profiling_of(kit, threads=4), begin) == [3]
    assert talk(profiling_of(kit, threads=4), resume) == [(3, 0)]


def test_threads_are_what_the_browser_has(kit: Path) -> None:
    async def browse(page: Page) -> list[int]:
        openings = [{"isolated": False}, {"cores": 2}, {}]
        return [(await page.open(**each))[1]["threads"] for each in openings]

    assert talk(profiling_of(kit, threads=4), browse) == [[1, 2, 4]]


def test_only_the_session_gets_in(kit: Path, manifest: Manifest) -> None:
    model = f"/models/{manifest.models[0].sha256}"

    async def browse(page: Page) -> list[int]:
        tokens = ("", "x", page.token[:-1], page.token + "x", "\u00e9")
        opened = [(await page.open(token))[0] for token in tokens]
        got = [(await page.get(path))[0] for path in ("/work", model)]
        posted, _ = await page.post(
            "/rounds", {"number": 0, "ns": {}, "disturbed": [], "failed": {}}
        )
        return [*opened, *got, posted]

    assert set(talk(profiling_of(kit), browse)[0]) == {HTTPStatus.FORBIDDEN}


def test_the_token_opens_one_session(kit: Path) -> None:
    async def browse(page: Page) -> int:
        return (await page.open())[0]

    statuses = talk(profiling_of(kit), *[browse] * 50)
    assert sorted(statuses) == [HTTPStatus.OK] + [HTTPStatus.FORBIDDEN] * 49


def test_fifty_posts_of_one_round_count_once(kit: Path) -> None:
    async def browse(page: Page) -> tuple[list[int], int]:
        await page.open()
        work = await page.work()
        answers = await asyncio.gather(*(page.round(work) for _ in range(50)))
        return sorted(status for status, _ in answers), (await page.work()).number

    statuses, number = talk(profiling_of(kit), browse)[0]
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

    assert set(talk(profiling_of(kit), browse)[0]) == {HTTPStatus.NOT_FOUND}


def test_bodies_are_small_and_of_the_schema(kit: Path) -> None:
    async def browse(page: Page) -> list[int]:
        await page.open()
        work = await page.work()
        posted = timed(work)
        good = {"number": 0, "ns": dict(posted.ns), "disturbed": [], "failed": {}}
        bodies: list[Any] = [
            {**good, "more": 1},
            {**good, "number": "0"},
            {**good, "ns": {key: -ns for key, ns in posted.ns.items()}},
            {**good, "ns": {**posted.ns, "f" * 64: 1}},
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
        return (await page.work()).number

    assert talk(profiling_of(kit), browse) == [0]


def test_a_client_that_disappears_changes_nothing(kit: Path) -> None:
    async def browse(page: Page) -> int:
        await page.open()
        host, _, port = page.home.removeprefix("http://").partition(":")
        for sent in (b"", b"POST /rounds HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n{"):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(sent)
            await writer.drain()
            writer.close()
        await page.round(await page.work())
        return (await page.work()).number

    assert talk(profiling_of(kit), browse) == [1]


def test_an_address_that_asks_too_often_waits(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_module, "PER_SECOND", 0)

    async def browse(page: Page) -> list[int]:
        return [(await page.get("/page.css"))[0] for _ in range(site_module.BURST + 2)]

    statuses = talk(profiling_of(kit), browse)[0]
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

    talk(profiling_of(kit), browse)


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

    status, body = talk(profiling_of(copy), browse)[0]
    assert status == HTTPStatus.UNPROCESSABLE_ENTITY
    assert b"was changed" in body


def test_a_device_that_runs_nothing_gives_no_profile(kit: Path) -> None:
    async def fail(page: Page) -> None:
        await page.open()
        work = await page.work()
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
    with pytest.raises(MobileNASError, match="no page asked for anything in 1 s"):
        served(profiling, nothing)


def test_a_port_that_is_taken_is_an_error(kit: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MobileNASError, match=f"cannot listen on 127.0.0.1, port {port}"):
            Profiling(kit, ServeSettings(port=port), name="phone")
