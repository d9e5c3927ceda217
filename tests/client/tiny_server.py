"""A server of a few lines for the transport's tests: speaks wire.session over WebSocket and does what the test says."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

from taube.wire.messages import Command, Event, Hello, LoggedIn, Login, Reply
from taube.wire.session import ServerSession

NONCE = b"n" * 32


class Connection(WSListener):
    """One connection: remembers every command, answers Hello and Login itself and the rest as the test says."""

    def __init__(self, server: "TinyServer") -> None:
        super().__init__()
        self.server = server
        self.commands: list[Command] = []
        self.session = ServerSession(
            nonce=NONCE, origin=server.calls_itself or server.origin, now_ms=1, generation=b"g" * 16
        )
        self.paused = asyncio.Event()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.server.connections.append(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.CLOSE:
            transport.disconnect()
        if frame.msg_type is not WSMsgType.BINARY:
            return
        command = self.session.receive(frame.get_payload_as_bytes())
        self.commands.append(command)
        if isinstance(command, Hello):
            if not self.server.silent:
                transport.send(WSMsgType.BINARY, self.session.welcome())
            return
        answer = self.server.answer(command)
        if answer is None and isinstance(command, Login):
            answer = LoggedIn(command.request, 0, 0)
        if answer is not None:
            self.say(answer)

    def say(self, message: Reply | Event) -> None:
        self.transport.send(WSMsgType.BINARY, self.session.encode(message))

    def pause_writing(self) -> None:
        self.paused.set()

    def cut(self) -> None:
        self.transport.underlying_transport.abort()


class TinyServer:
    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.answer: Callable[[Command], Reply | None] = lambda command: None
        self.origin = ""
        self.calls_itself = ""
        self.silent = False


@asynccontextmanager
async def tiny_server(context: ssl.SSLContext | None = None, host: str = "127.0.0.1"):
    tiny = TinyServer()
    server = await ws_create_server(lambda request: Connection(tiny), host, 0, ssl=context, use_aiofastnet=False)
    port = server.sockets[0].getsockname()[1]
    tiny.origin = f"{'https' if context else 'http'}://{'localhost' if context else host}:{port}"
    try:
        yield tiny
    finally:
        server.close()
        for connection in tiny.connections:
            connection.cut()


def server_context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context
