"""Wakes a browser: one POST to its push service, over a connection that never leads into a private network.

What is sent is the same for everyone, encrypted to the browser, and says nothing: not who wrote, nor where. The host of
an endpoint is looked up here and the address that was checked is the one connected to, so that a name cannot lead
elsewhere a moment later. The only importer of httpcore, which is loaded with the first push.

It does not know devices or mailboxes. Source: docs/protocol/delivery.md, WAK-03 to WAK-06; RFC 8030, RFC 8292.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from taube.server.ports import PushRow
from taube.server.services.push import Answer, PushSettings, check_endpoint, is_public
from taube.wire.errors import WireError

if TYPE_CHECKING:
    import httpcore

CONTENT: Final = b"taube"
"""What every push says, once decrypted."""
TOKEN_S: Final = 43_200
"""For how long a push service may take a signed name of this server."""
TOKENS: Final = 64
"""Push services whose signed name is remembered."""
MOST_ANSWER_BYTES: Final = 65_536


class NotPublic(OSError):
    """A host leads to an address that is not of the internet at large."""


class WebPush:
    """The client of push services. `close` ends its threads."""

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
        self._threads: ThreadPoolExecutor | None = None
        self._making = threading.Lock()

    async def push(self, row: PushRow) -> tuple[Answer, float]:
        """Wake whoever subscribed with *row*: (what became of it, seconds to wait before trying again)."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._settings.at_once, "push")
        try:
            check_endpoint(row, bool(self._settings.allow_private))
            authorization = self._authorization(row.endpoint)
        except WireError:
            return Answer.REFUSED, 0.0
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._post, row, authorization)

    async def leads_inside(self, row: PushRow) -> bool:
        """Whether the endpoint's host is known to lead into a private network now; a host that is not found does not.

        Raises PUSH_REFUSED for what can be seen to be wrong without asking.
        """
        host, port = check_endpoint(row, bool(self._settings.allow_private))
        if self._settings.allow_private:
            return False
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError):
            return False
        return not all(is_public(ip_address(entry[4][0])) for entry in found)

    def close(self) -> None:
        """End what is under way. Idempotent."""
        if self._pool is not None:
            self._pool.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

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
        try:
            with self._connections().stream(
                "POST", row.endpoint, headers=headers, content=body, extensions=limits
            ) as response:
                size = 0
                for part in response.iter_stream():
                    size += len(part)
                    if size > MOST_ANSWER_BYTES:
                        break
                return _answer(response.status, response.headers, self._now_s())
        except NotPublic:
            return Answer.REFUSED, 0.0
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError):
            return Answer.LATER, 0.0

    def _connections(self) -> "httpcore.ConnectionPool":
        with self._making:
            if self._pool is None:
                self._pool = _make_pool(self._settings)
            return self._pool


def _make_pool(settings: PushSettings) -> "httpcore.ConnectionPool":
    import httpcore

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
                return super().connect_tcp(host, port, timeout, local_address, socket_options)
            addresses = [entry[4][0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
            if not all(is_public(ip_address(address)) for address in addresses):
                raise NotPublic("a private address")
            failure: Exception = OSError("no address")
            for address in addresses[:4]:
                try:
                    return super().connect_tcp(str(address), port, timeout, local_address, socket_options)
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
