"""Wakes a browser: one POST to its push service, over a connection that never leads into a private network.

What is sent is the same for everyone, encrypted to the browser, and says nothing: not who wrote, nor where. The host of
an endpoint is looked up here and the address that was checked is the one connected to, so that a name cannot lead
elsewhere a moment later. Anyone with an account may name a push service of their own, and a name server: each push has
one deadline and one bound of bytes for all that it does, and what nothing can end, a look-up above all, is in threads
that hold up neither others nor the end of the process. The only importer of httpcore, loaded with the first push.

It does not know devices or mailboxes. Source: docs/protocol/delivery.md, WAK-03 to WAK-06; RFC 8030, RFC 8292.
"""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from taube.server.ports import PushRow
from taube.server.services.push import Answer, PushSettings, check_endpoint, is_public
from taube.wire.errors import WireError

if TYPE_CHECKING:
    import httpcore

CONTENT: Final = b"taube"
"""What every push says, once decrypted."""
REST_S: Final = 0.5
"""What an answered push waits for the rest of its answer: a service that never sends it would hold a thread."""
TOKEN_S: Final = 43_200
"""For how long a push service may take a signed name of this server."""
TOKENS: Final = 64
"""Push services whose signed name is remembered."""
MOST_ANSWER_BYTES: Final = 65_536
"""What is read of an answer, its head and what comes before it included."""
LOOKS: Final = 64
"""Endpoints that are given, and hosts of such that are looked up, at once."""

T = TypeVar("T")


def _begin(name: str, call: Callable[..., T], *arguments: Any) -> Future[T]:
    """*call* in a thread of its own, which ends with the process at the latest: who waits for it can stop waiting.

    The threads of an executor would be waited for when the process ends, whoever has given up on them.
    """
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # one who stops waiting shall not cancel it for the others

    def run() -> None:
        try:
            outcome.set_result(call(*arguments))
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return outcome


class NotPublic(OSError):
    """A host leads to an address that is not of the internet at large."""


class _Budget(threading.local):
    """What is left of the push that this thread is at: seconds and bytes to read. Whoever drips, or never ends, would
    hold the thread else."""

    ends: float = 0.0
    bytes_left: int = 0

    def begin(self, timeout_s: float) -> None:
        self.ends = time.monotonic() + timeout_s
        self.bytes_left = MOST_ANSWER_BYTES

    def left_s(self) -> float:
        """Raises TimeoutError when nothing is left."""
        left_s = self.ends - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    def took(self, count: int) -> None:
        """Raises OSError when it was too much."""
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise OSError("the answer does not end")


class _Names:
    """Looks up hosts, *most* at once, each once for all who ask: they can stop waiting, the look-up cannot."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way: dict[str, Future[list[str]]] = {}
        self._lock = threading.Lock()

    def look_up(self, host: str) -> Future[list[str]]:
        """The addresses of *host*, later, or OSError. Raises OSError: too many others are looked up."""
        with self._lock:
            found = self._under_way.get(host)
            if found is None:
                if len(self._under_way) >= self._most:
                    raise OSError("too many hosts are looked up")
                found = self._under_way[host] = _begin("look-up", self._ask, host)
            return found

    def _ask(self, host: str) -> list[str]:
        try:
            entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            return [str(entry[4][0]) for entry in entries]
        finally:
            with self._lock:
                del self._under_way[host]


class WebPush:
    """The client of push services. Whoever calls `push` has `at_once` under way at most."""

    def __init__(
        self,
        settings: PushSettings,
        *,
        subject: str,
        authorize: Callable[[str, str, int], str],
        encrypt: Callable[[bytes, bytes, bytes], bytes],
        now_s: Callable[[], float],
    ) -> None:
        """*subject*: the https origin of this server. *authorize(audience, subject, expires_at_s)*: a header.
        *encrypt(content, key, secret)*: the body. *now_s*: seconds since 1970, as push services count."""
        self._settings = settings
        self._subject = subject
        self._authorize = authorize
        self._encrypt = encrypt
        self._now_s = now_s
        self._tokens: dict[str, tuple[float, str]] = {}
        self._pool: httpcore.ConnectionPool | None = None
        self._making = threading.Lock()
        self._budget = _Budget()
        self._names = _Names(LOOKS)
        self._looks = 0

    async def push(self, row: PushRow) -> tuple[Answer, float]:
        """Wake whoever subscribed with *row*: (what became of it, seconds to wait before trying again)."""
        try:
            check_endpoint(row, bool(self._settings.allow_private))
            authorization = self._authorization(row.endpoint)
        except WireError:
            return Answer.REFUSED, 0.0
        return await asyncio.wrap_future(_begin("push", self._post, row, authorization))

    async def leads_inside(self, row: PushRow) -> bool:
        """Whether the endpoint's host is known to lead into a private network now: one that is not found does not, nor
        one that would be looked up or waited for beside `LOOKS` others. A push looks where it leads in any case.

        Raises PUSH_REFUSED for what can be seen to be wrong without asking.
        """
        host, _ = check_endpoint(row, bool(self._settings.allow_private))
        if self._settings.allow_private or self._looks >= LOOKS:
            return False
        self._looks += 1
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                addresses = await asyncio.wrap_future(self._names.look_up(host))
        except OSError:
            return False
        finally:
            self._looks -= 1
        return not all(is_public(ip_address(address)) for address in addresses)

    def close(self) -> None:
        """Close the connections. Idempotent."""
        if self._pool is not None:
            self._pool.close()

    def _authorization(self, endpoint: str) -> str:
        """The signed name of this server for the endpoint's push service, made twice a day."""
        parts = urlsplit(endpoint)
        audience = f"{parts.scheme}://{parts.netloc}"
        made_s, token = self._tokens.get(audience, (0.0, ""))
        now_s = self._now_s()
        if not 0 <= now_s - made_s < TOKEN_S / 2:
            if len(self._tokens) >= TOKENS:
                self._tokens.clear()
            token = self._authorize(audience, self._subject, int(now_s) + TOKEN_S)
            self._tokens[audience] = (now_s, token)
        return token

    def _post(self, row: PushRow, authorization: str) -> tuple[Answer, float]:
        import httpcore

        timeout_s = self._settings.timeout_s
        self._budget.begin(timeout_s)
        try:
            body = self._encrypt(CONTENT, row.key, row.secret)
        except ValueError:
            return Answer.REFUSED, 0.0
        headers: dict[bytes | str, bytes | str] = {
            "Authorization": authorization,
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "Content-Length": str(len(body)),
            "TTL": str(self._settings.ttl_s),
            "Urgency": "high",
            "Topic": "taube",
        }
        limits = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)}
        failures = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError)
        try:
            with self._connections().stream(
                "POST", row.endpoint, headers=headers, content=body, extensions=limits
            ) as response:
                self._budget.begin(REST_S)
                with suppress(*failures):  # the rest says nothing, but lets the connection be used again
                    for _ in response.iter_stream():
                        pass
                return _answer(response.status, response.headers, self._now_s())
        except NotPublic:
            return Answer.REFUSED, 0.0
        except failures:
            return Answer.LATER, 0.0

    def _connections(self) -> "httpcore.ConnectionPool":
        with self._making:
            if self._pool is None:
                self._pool = _make_pool(self._settings, self._budget)
            return self._pool


def _make_pool(settings: PushSettings, budget: _Budget) -> "httpcore.ConnectionPool":
    import httpcore

    names = _Names(settings.at_once)

    class Bounded(httpcore.NetworkStream):
        """A stream that gives each push the time and the bytes that its budget has."""

        def __init__(self, stream: httpcore.NetworkStream) -> None:
            self._stream = stream

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            data = self._stream.read(max_bytes, budget.left_s())
            budget.took(len(data))
            return data

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            self._stream.write(buffer, budget.left_s())

        def close(self) -> None:
            self._stream.close()

        def start_tls(
            self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
        ) -> httpcore.NetworkStream:
            return Bounded(self._stream.start_tls(ssl_context, server_hostname, budget.left_s()))

        def get_extra_info(self, info: str) -> Any:
            return self._stream.get_extra_info(info)

    class Checked(httpcore.SyncBackend):
        """Connects to addresses of the internet only, by the very address that was checked."""

        def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,
            socket_options: Iterable[Any] | None = None,
        ) -> httpcore.NetworkStream:
            if settings.allow_private:
                return Bounded(super().connect_tcp(host, port, budget.left_s(), local_address, socket_options))
            addresses = names.look_up(host).result(budget.left_s())
            if not all(is_public(ip_address(address)) for address in addresses):
                raise NotPublic("a private address")
            failure: Exception = OSError("no address")
            for address in addresses[:4]:
                try:
                    stream = super().connect_tcp(address, port, budget.left_s(), local_address, socket_options)
                    return Bounded(stream)
                except (httpcore.NetworkError, httpcore.TimeoutException) as error:
                    failure = error
            raise failure

    return httpcore.ConnectionPool(
        ssl_context=ssl.create_default_context(),
        max_connections=settings.at_once,
        max_keepalive_connections=8,
        keepalive_expiry=60.0,
        network_backend=Checked(),
    )


def _answer(status: int, headers: Iterable[tuple[bytes, bytes]], now_s: float) -> tuple[Answer, float]:
    """What a push service's status means. Source: RFC 8030, section 8.4."""
    if 200 <= status < 300:
        return Answer.TAKEN, 0.0
    if status in (404, 410):
        return Answer.GONE, 0.0
    if status == 429 or status >= 500:
        after = next((value for name, value in headers if name.lower() == b"retry-after"), b"")
        return Answer.LATER, _seconds(after.decode("latin-1"), now_s)
    return Answer.REFUSED, 0.0


def _seconds(after: str, now_s: float) -> float:
    """A Retry-After header as seconds from now; 0 for one that cannot be read."""
    if after.isdecimal():
        return float(after[:9])
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - now_s)
    except (ValueError, TypeError, OverflowError):
        return 0.0
