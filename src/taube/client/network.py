"""What the engine needs of the network, so that tests can give it one without sockets: links, requests, events.

`transport.Transport` fits. Source: docs/protocol/connection.md.
"""

from collections.abc import AsyncIterator, Callable
from typing import Protocol, TypeVar

from taube.wire.messages import AccountId, Command, DeviceId, Event, LoggedIn, Reply, Welcome

ReplyT = TypeVar("ReplyT")


class Link(Protocol):
    """One open connection after its hello."""

    welcome: Welcome

    async def request(self, build: Callable[[int], Command], timeout_s: float = ...) -> Reply:
        """Raises WireError when refused, TransportError when it is unknown whether it happened."""

    async def expect(self, kind: type[ReplyT], build: Callable[[int], Command], timeout_s: float = ...) -> ReplyT:
        """`request`, for a reply of one kind."""

    async def close(self) -> None: ...


class DeviceLink(Link, Protocol):
    """A connection that logged in."""

    logged_in: LoggedIn
    reconnect_after_ms: int
    replaced: bool

    def events(self, most: int = ...) -> AsyncIterator[list[Event]]:
        """What the server sends unasked, in order, in batches; ends with the link."""

    def acknowledge(self, upto: int) -> None: ...


class Network(Protocol):
    """All links to one server."""

    async def anonymous(self, purpose: str) -> Link: ...

    async def device(self, account: AccountId, device: DeviceId, sign: Callable[[str, bytes], bytes]) -> DeviceLink: ...

    async def close(self) -> None: ...
