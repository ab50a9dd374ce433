"""A local site for one browser: static pages are public, everything else needs a one-time token.

The token is in the fragment of the URL, which is never sent or logged; the page exchanges it for a
cookie. Pages load nothing from elsewhere, and are cross-origin isolated so that they may use
threads.
"""

import asyncio
import hashlib
import hmac
import importlib.resources
import secrets
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import read_bytes
from mobilenas.core.records import Record
from mobilenas.web.runtime import FILES, FOLDER, STATIC, check_runtime
from mobilenas.web.settings import Backend, ServeSettings

HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
        "connect-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""Headers of every response."""
MAX_BODY_BYTES = 65_536
BURST, PER_SECOND = 200, 50
"""Limit of requests per address: at once, and sustained per second."""

_MAX_ADDRESSES = 1000
_BODY_PATIENCE_S = 20.0
_FAREWELL_S = 1.0  # for the last response to arrive
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_TYPES |= {".mjs": "text/javascript", ".wasm": "application/wasm"}

_Posted = TypeVar("_Posted", bound=Record)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RefusalError(MobileNASError):
    """A request that is refused with a specific HTTP status."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Site:
    """Routes, session, and checks of all requests."""

    def __init__(self, page: str, settings: ServeSettings) -> None:
        check_runtime(settings.backend)
        self._settings = settings
        self._token, self._session = secrets.token_urlsafe(24), ""
        self._buckets: dict[str, tuple[float, float]] = {}
        self._touched = time.monotonic()
        self._ended = asyncio.Event()
        self._tls = _tls(settings)
        self._socket = _bound(settings)
        port = self._socket.getsockname()[1]
        self._cookie = f"mobilenas-{port}"
        host = _own_address() if settings.host in ("0.0.0.0", "::") else settings.host
        self.home = f"http{'s' * bool(self._tls)}://{f'[{host}]' if ':' in host else host}:{port}/"
        self.url = f"{self.home}#{self._token}"
        """URL of the page, with its token."""
        self.app = web.Application(
            client_max_size=MAX_BODY_BYTES, middlewares=[_guard(self._admits)]
        )
        self.app.on_response_prepare.append(_add_headers)
        for path, file in _static_files(page, settings.backend).items():
            self.app.router.add_get(path, _serving(file))

    def get(self, path: str, answer: Callable[[web.Request], Record | bytes]) -> None:
        """Add a GET route for the session."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self._authorize(request)
            return _response(answer(request))

        self.app.router.add_get(path, handle)

    def post(self, path: str, kind: type[_Posted], answer: Callable[[_Posted], Record]) -> None:
        """Add a POST route for the session."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self._authorize(request)
            return _response(answer(await _posted(request, kind)))

        self.app.router.add_post(path, handle)

    def models(self, files: Mapping[str, Path]) -> None:
        """Serve files by sha256 to the session; changed files are refused."""

        def model(request: web.Request) -> bytes:
            checksum = request.match_info["sha256"]
            if checksum not in files:
                raise RefusalError(HTTPStatus.NOT_FOUND, "there is no model of this name")
            content = read_bytes(files[checksum])
            if hashlib.sha256(content).hexdigest() != checksum:
                raise FileError(f"{files[checksum]} was changed")
            return content

        self.get("/models/{sha256}", model)

    def opening(self, kind: type[_Posted], answer: Callable[[_Posted], Record]) -> None:
        """Add the route that opens a session: with the token, once, or with the cookie."""

        async def handle(request: web.Request) -> web.StreamResponse:
            posted = await _posted(request, kind)
            if not self._is_authorized(request):
                self._redeem(str(getattr(posted, "token", "")))
            response = _response(answer(posted))
            response.set_cookie(
                self._cookie,
                self._session,
                httponly=True,
                samesite="Strict",
                secure=self._tls is not None,
            )
            self._touched = time.monotonic()
            return response

        self.app.router.add_post("/session", handle)

    def end(self) -> None:
        """Stop after the current response has been sent."""
        self._ended.set()

    async def serve(self) -> bool:
        """Serve until `end` is called; return False if there was no request for too long."""
        runner = web.AppRunner(self.app, access_log=None)
        await runner.setup()
        try:
            await web.SockSite(runner, self._socket, ssl_context=self._tls).start()
            while not self._ended.is_set():
                left = self._touched + self._settings.idle - time.monotonic()
                if left <= 0:
                    return False
                try:
                    await asyncio.wait_for(self._ended.wait(), left)
                except TimeoutError:
                    continue
            await asyncio.sleep(_FAREWELL_S)
            return True
        finally:
            await runner.cleanup()

    def _redeem(self, token: str) -> None:
        if not _same(token, self._token):
            raise RefusalError(HTTPStatus.FORBIDDEN, "the token of this address is wrong")
        if self._session:
            raise RefusalError(
                HTTPStatus.FORBIDDEN,
                "this address was opened in another browser; stop the command and start it again "
                "for a new one",
            )
        self._session = secrets.token_urlsafe(24)

    def _is_authorized(self, request: web.Request) -> bool:
        given = request.cookies.get(self._cookie, "")
        return bool(self._session) and _same(given, self._session)

    def _authorize(self, request: web.Request) -> None:
        if not self._is_authorized(request):
            raise RefusalError(HTTPStatus.FORBIDDEN, "open the address that the command printed")
        self._touched = time.monotonic()

    def _admits(self, address: str) -> bool:
        """Whether this address may make another request (token bucket)."""
        if len(self._buckets) > _MAX_ADDRESSES:
            self._buckets.clear()
        now = time.monotonic()
        left, then = self._buckets.get(address, (float(BURST), now))
        left = min(BURST, left + PER_SECOND * (now - then))
        self._buckets[address] = (left - 1 if left >= 1 else left, now)
        return left >= 1


def _same(given: str, secret: str) -> bool:
    """Compare in constant time."""
    # bytes of a header that are not UTF-8 become surrogates
    return hmac.compare_digest(given.encode(errors="surrogateescape"), secret.encode())


def _guard(admits: Callable[[str], bool]) -> Middleware:
    """Return the middleware for all requests: rate limit per address, errors as JSON."""

    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if not admits(request.remote or ""):
                raise RefusalError(HTTPStatus.TOO_MANY_REQUESTS, "too many requests")
            return await handler(request)
        except MobileNASError as error:
            wrong = HTTPStatus.UNPROCESSABLE_ENTITY
            status = error.status if isinstance(error, RefusalError) else wrong
            return web.json_response({"error": str(error)}, status=status)

    return web.middleware(guard)


async def _posted(request: web.Request, kind: type[_Posted]) -> _Posted:
    if request.content_type != "application/json":
        raise RefusalError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json")
    try:
        async with asyncio.timeout(_BODY_PATIENCE_S):
            body = await request.read()
        return msgspec.json.decode(body, type=kind)
    except TimeoutError as error:
        raise RefusalError(HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive") from error
    except msgspec.DecodeError as error:  # includes ValidationError
        raise RefusalError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error


def _response(answer: Record | bytes) -> web.Response:
    if isinstance(answer, bytes):
        return web.Response(body=answer, content_type="application/octet-stream")
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json")


async def _add_headers(_: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _static_files(page: str, backend: Backend) -> dict[str, Path]:
    """Return all public files by URL path."""
    style = Path(str(importlib.resources.files("mobilenas.report"))) / "templates/style.css"
    files = {f"/{path.name}": path for path in sorted(STATIC.iterdir()) if path.is_file()}
    runtime = {f"/ort/{name}": FOLDER / name for name in FILES[backend]}
    chosen = {"/": STATIC / page, "/backend.js": STATIC / f"backend-{backend}.js"}
    return files | runtime | chosen | {"/style.css": style}


def _serving(file: Path) -> Handler:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(file, headers={"Content-Type": _TYPES[file.suffix]})

    return handle


def _bound(settings: ServeSettings) -> socket.socket:
    host, port = settings.host, settings.port
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise MobileNASError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another "
            "--host or --port"
        ) from error


def _own_address() -> str:
    """Return this machine's address in the network, or its host name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address; nothing is sent
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


def _tls(settings: ServeSettings) -> ssl.SSLContext | None:
    if settings.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except OSError as error:  # includes ssl.SSLError
        raise FileError(f"cannot use {settings.certificate}: {error}") from error
    return context
