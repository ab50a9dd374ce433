"""A browser without a page, for tests of the server."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import ClientSession, CookieJar

from mobilenas.web.records import Opening
from mobilenas.web.site import Site

OPENING = Opening(browser="A browser", system="Android", model="Pixel 7", cores=8, isolated=True)
Talk = Callable[["Page"], Awaitable[Any]]


class Page:
    """What a browser is to the server."""

    def __init__(self, client: ClientSession, site: Site) -> None:
        self.client, self.home = client, site.home.rstrip("/")
        self.token = site.url.partition("#")[2]

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


def talk(site: Site, *talks: Talk) -> list[Any]:
    """Run what several browsers do at the same time, each with cookies of its own."""

    async def run() -> list[Any]:
        async def one(each: Talk) -> Any:
            async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as client:
                return await each(Page(client, site))

        serving = asyncio.create_task(site.serve())
        found = await asyncio.gather(*map(one, talks))
        serving.cancel()
        await asyncio.wait([serving])
        return found

    return asyncio.run(run())
