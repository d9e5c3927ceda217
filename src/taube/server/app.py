"""The composition root: builds the server from its parts, runs it, and takes it down in good order.

The only file that names every concrete class. `serve` is what `taube serve` does; `Server` is the same in pieces, for
tests and for whoever embeds it. Everything is passed as an argument; nothing is global.
Source: docs/operating.md.
"""

import asyncio
import contextlib
import errno
import gc
import json
import os
import random
import resource
import shutil
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from taube import __version__, shortage
from taube.exits import EX_CONFIG, EX_IOERR, EX_UNAVAILABLE, EX_USAGE
from taube.server import backup, certificate, folder, pages, secrets
from taube.server.config import LEAST_SPREAD_MS, OperatorError, ServeOptions, ServerConfig, read_config
from taube.server.gateway.blobs import BlobTraffic
from taube.server.gateway.connection import Channel, Connection, Turn
from taube.server.gateway.dispatch import Dispatch
from taube.server.gateway.hub import Hub
from taube.server.gateway.listener import KeyIsProtected, Listener, ends_one_connection, http_protocols, tls_context
from taube.server.limits import Limits
from taube.server.ops import waking, workers
from taube.server.ops.lifecycle import Lifecycle, Stage, ops_pages
from taube.server.ops.observe import METRICS, Log, PrometheusMetrics, silence_libraries, standard_error
from taube.server.ops.waking import Waking
from taube.server.ops.workers import GuardedTime, Workers, written
from taube.server.ports import QueueNumber, Store, StoreUnusable, Tables
from taube.server.providers.web_push import WebPush
from taube.server.services import blobs, identity
from taube.server.services.mailboxes import Mailboxes
from taube.server.services.push import Wakeups
from taube.server.stores.objects import ObjectFolder
from taube.server.stores.sqlite import SqliteStore
from taube.wire.errors import WireError
from taube.wire.session import ServerSession

CHECK_EVERY_S: Final = 5.0
STORAGE_UNWELL_S: Final = 30.0
"""How long after a failed read or write the server calls itself unwell."""
LOOPS_AGAIN_S: Final = 10.0
"""After how long the background loops begin again when a bug ended them."""
KEYS_EVERY_S: Final = 3600.0
"""How often the address keys are read again, so that one that was retired long ago is forgotten."""
STRAINED_S: Final = 0.5
"""How late the loop has to be for what can wait to be refused."""
FULL_SHARE: Final = 32
"""The last such part of the connections is kept for telling newcomers when to come back; above it they are closed."""
SPARE_DESCRIPTORS: Final = 128
LEAST_DESCRIPTORS: Final = 64
"""Files that a server has to be allowed to open to start at all."""
BACKLOG: Final = 2048
"""Connections that the kernel may hold until they are accepted."""

T = TypeVar("T")


def serve(options: ServeOptions) -> int:
    """Run a server until SIGTERM or SIGINT; gives the exit code. Raises OperatorError with one clear sentence."""

    os.umask(0o077)  # the folder holds keys
    if raise_open_files() < LEAST_DESCRIPTORS:
        raise OperatorError(shortage.sentence(errno.EMFILE, options.data), EX_CONFIG)

    async def run() -> int:
        server = Server(options)
        await server.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, server.lifecycle.ask_to_end, number.name)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.reload)
        print(f"ready {server.origin}", flush=True)
        tell_supervisor("READY=1")
        await server.lifecycle.asked_to_end()
        tell_supervisor("STOPPING=1")
        with ended_within(server.stop_most_s, server.log):
            await server.stop()
        return 0

    return uvloop.run(run())


@contextlib.contextmanager
def ended_within(seconds: float, log: Log) -> Iterator[None]:
    """End this process when what is done here takes longer, since nothing else can end a wait for a disk that hangs.

    Nothing that was answered is lost by it: the answer comes after the fsync.
    """

    def give_up() -> None:
        sentence = "The disk did not finish in time, so the server ended without it: nothing answered kept is lost."
        log.event("storage", level="error", reason=sentence)
        os._exit(EX_IOERR)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def tell_supervisor(state: str) -> None:
    """Tell systemd, if it asked for it (`Type=notify`), how far this process is. Source: sd_notify(3)."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if place:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), "\0" + place[1:] if place[0] == "@" else place)


class Server:
    """One server process. `start` raises OperatorError and leaves nothing running; `stop` drains.

    After `start`: `origin` is what links name, `url` where the port really is, `ops_url` where health and metrics are.
    """

    def __init__(self, options: ServeOptions, config: ServerConfig | None = None, log: Log | None = None) -> None:
        self._options = options
        self._config = config or read_config(options.config)
        self._loop = asyncio.get_running_loop()
        self.log = log or Log(standard_error(), wall_ms)
        self._time: GuardedTime
        self.metrics = PrometheusMetrics(METRICS + workers.METRICS + waking.METRICS)
        self.lifecycle = Lifecycle()
        self.hub = Hub()
        self.origin = self.url = self.ops_url = ""
        self.store: Store
        self._mailboxes: Mailboxes
        self._dispatch: Dispatch
        self._sealer: secrets.AddressKeys
        self._blobs: BlobTraffic
        self._listener: Listener
        self._limits = Limits(self._config.limits)
        self._timer: asyncio.TimerHandle | None = None
        self._turn = Turn(self._loop.call_soon, self._finish_turn)
        self._generation = b""
        self._certificate_expires_s = 0.0
        self._resources = contextlib.AsyncExitStack()
        self._check_timer: asyncio.TimerHandle | None = None
        self._lag_timer: asyncio.TimerHandle | None = None
        self._keys_timer: asyncio.TimerHandle | None = None
        self._storage_failed_at = float("-inf")
        self._workers: Workers
        self._push_key: secrets.PushKey
        self._wakeups = Wakeups(self._config.push)
        self._waking: Waking
        self._loops: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ start

    async def start(self) -> None:
        """Take the folder, open the store, bind the ports, accept."""
        async with contextlib.AsyncExitStack() as undo:
            await self._start(undo)
            self._resources = undo.pop_all()
        self.lifecycle.move(Stage.READY)
        self.log.event("ready", url=self.origin, ops=self.ops_url, version=__version__)

    async def _start(self, undo: contextlib.AsyncExitStack) -> None:
        options = self._options
        silence_libraries()
        self._loop.set_exception_handler(self._unforeseen)
        folder.prepare(options.data)
        undo.callback(os.close, folder.hold(options.data))
        if open_to_others := folder.openness(options.data):
            self.log.event("attention", level="warning", reason=open_to_others)
        if backup.finish(options.data) is not None:
            self.log.event("attention", level="warning", reason="A restore that was interrupted is finished now.")
        tls = self._tls()
        sockets = bind(options.listen)
        for each in sockets:
            undo.callback(each.close)
        self._name(sockets, tls)
        self.store = self._open_store()
        undo.callback(self.store.close)
        await self._keep_name()
        self._check_names(tls)
        self._build(sockets, tls, await self._establish(), undo)
        undo.callback(self._blobs.close)
        await self._open_ops(undo)
        self._remember_options()
        self._listener.start()
        undo.callback(self._listener.stop)
        self._check()
        self._feel_lag(time.monotonic())
        self._mind_keys()
        self._start_loops()
        undo.push_async_callback(self._stop_loops)
        undo.callback(self._stop_checking)
        undo.callback(gc.set_threshold, *gc.get_threshold())
        undo.callback(gc.unfreeze)
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 100)

    def _tls(self) -> ssl.SSLContext | None:
        options = self._options
        host, port = split_listen(options.listen)
        if options.tls_cert is None and options.tls_key is None:
            if not folder.is_loopback(host):
                raise OperatorError(
                    f"Only with --tls-cert and --tls-key can the server listen on {host or 'every address'}: give both,"
                    f" or --listen 127.0.0.1:{port}.",
                    EX_USAGE,
                )
            return None
        if options.tls_cert is None or options.tls_key is None:
            raise OperatorError("--tls-cert and --tls-key belong together: give both or none.", EX_USAGE)
        for path in (options.tls_cert, options.tls_key):
            if not path.is_file():
                raise OperatorError(folder.no_file(path), EX_CONFIG)
        try:
            context = tls_context(options.tls_cert, options.tls_key)
            with contextlib.suppress(ssl.SSLError):  # one that clients refuse: the doctor tells why
                self._certificate_expires_s = certificate.about(context, options.tls_cert).not_after_s
            return context
        except ssl.SSLError as error:
            raise OperatorError(
                f"{options.tls_cert} and {options.tls_key} are not a certificate and the key that belongs to it, in PEM"
                " form.",
                EX_CONFIG,
            ) from error
        except KeyIsProtected as error:
            raise OperatorError(
                f"{options.tls_key} is protected by a passphrase, which nobody could type: give the key without one.",
                EX_CONFIG,
            ) from error
        except OSError as error:
            path = error.filename or options.tls_key
            sentence = shortage.sentence(error.errno, path) or f"{path} cannot be read by this user."
            raise OperatorError(sentence, EX_CONFIG) from error

    def _name(self, sockets: list[socket.socket], tls: ssl.SSLContext | None) -> None:
        """Settle the origin: --url, else the one kept in the folder, else where the server listens."""
        host, wanted_port = split_listen(self._options.listen)
        port = sockets[0].getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if tls else 'http'}://{name}:{port}"
        kept = folder.kept_origin(self._options.data)
        if self._options.url is not None:
            self.origin = folder.check_origin(self._options.url, kept)
            if tls and self.origin.startswith("http://"):
                raise OperatorError(
                    f"With --tls-cert and --tls-key the server speaks https only, and --url says {self.origin}: write"
                    " https:// there, or leave the certificate out.",
                    EX_USAGE,
                )
        elif kept is not None and wanted_port:
            self.origin = kept
            if kept.startswith("http://") and kept != self.url:
                sentence = f"Clients will look for this server at {kept}, where it was before: --url tells another."
                self.log.event("attention", level="warning", reason=sentence)
        elif host in ("", "0.0.0.0", "::"):
            raise OperatorError(
                "Say with --url what name this server is reached by, such as https://example.org.", EX_USAGE
            )
        else:
            self.origin = folder.check_origin(self.url, kept)

    async def _keep_name(self) -> None:
        """Keep the origin in the folder. Raises OperatorError if it would cut off those who have an account."""
        options, kept = self._options, folder.kept_origin(self._options.data)
        if self.origin == kept:
            return
        if kept is not None and options.url is not None and not options.change_url:
            never = 999_999
            if await self.ask(lambda tables: tables.unused_accounts(never, 1)):
                raise OperatorError(
                    f"The accounts here know this server as {kept}, and {self.origin} would cut them off: correct"
                    " --url, or add --change-url if that is meant.",
                    EX_USAGE,
                )
        folder.keep(options.data, "origin", self.origin)

    def _check_names(self, tls: ssl.SSLContext | None) -> None:
        """Say so if clients will not find the origin, or not take the certificate for its."""
        host = folder.host_of(self.origin)
        if not host:
            self.log.event("attention", level="warning", reason=folder.oddness(self.origin))
        if not host or tls is None or self._options.tls_cert is None:
            return
        with contextlib.suppress(OSError):
            if not certificate.names(tls, self._options.tls_cert, host):
                sentence = f"The certificate does not name {host}: clients will refuse it. taube doctor tells more."
                self.log.event("attention", level="warning", reason=sentence)

    def _open_store(self) -> Store:
        path, served = self._options.data / backup.DATABASE, folder.kept_origin(self._options.data)
        if served is not None and not (path.exists() and path.stat().st_size):
            raise OperatorError(
                f"{path} is missing or empty, though this folder has served {served}: put it back, or restore a backup."
                " Nothing was changed.",
                EX_CONFIG,
            )
        try:
            return SqliteStore(
                path,
                later=self._loop.call_soon_threadsafe,
                soon=self._loop.call_soon,
                problem=self._storage_problem,
                foreign=self._changed_behind,
                observe=self.metrics.observe,
                settings=self._config.sqlite,
            )
        except StoreUnusable as error:
            raise OperatorError(str(error), error.exit_code) from error

    async def ask(self, job: Callable[[Tables], T]) -> T:
        """Run one job over the tables and wait until it is durable."""
        return await written(self.store, job)

    async def _establish(self) -> secrets.AddressKeys:
        """Read, or make at the first start, what this server is: generation, address keys, guarded clock."""
        wrong = await self.ask(lambda tables: identity.damage(tables.facts("")))
        if wrong:
            path = self._options.data / backup.DATABASE
            raise OperatorError(f"{path} is damaged ({wrong}): restore a backup.", EX_CONFIG)
        now = self._loop.time()
        guarded = await self.ask(lambda tables: identity.start_clock(tables, wall_ms(), now))
        self._time = GuardedTime(guarded, self._loop.time, wall_ms)
        own = await self.ask(self._identity)
        self._generation = own.generation
        self._push_key = secrets.PushKey(await self.ask(lambda tables: identity.push_key(tables, secrets.PushKey.make)))
        return secrets.AddressKeys(own.address_keys, own.current_key)

    def _identity(self, tables: Tables) -> identity.Identity:
        return identity.establish(tables, os.urandom, self._time.guarded_ms())

    def _build(
        self,
        sockets: list[socket.socket],
        tls: ssl.SSLContext | None,
        sealer: secrets.AddressKeys,
        undo: contextlib.AsyncExitStack,
    ) -> None:
        self._sealer = sealer
        self._mailboxes = Mailboxes(
            self._config.mailboxes,
            self.store,
            self._time.hour,
            self._turn.arm,
            self._call,
        )
        push = WebPush(
            self._config.push,
            subject=self.origin,
            authorize=self._push_key.authorization,
            encrypt=lambda content, key, secret: secrets.encrypt_push(
                content, key, secret, os.urandom(16), secrets.PushKey.make()
            ),
            now_s=time.time,
        )
        undo.callback(push.close)
        self._waking = Waking(
            self._wakeups,
            store=self.store,
            push=push.push,
            leads_inside=push.leads_inside,
            waits=self._mailboxes.waits,
            ended=lambda mailbox: self._mailboxes.set_wakes(mailbox, False),
            monotonic=self._loop.time,
            metrics=self.metrics,
            bug=self._bug,
        )
        self._dispatch = Dispatch(
            origin=self.origin,
            store=self.store,
            mailboxes=self._mailboxes,
            sealer=sealer,
            verify=secrets.verify,
            hub=self.hub,
            limits=self._limits,
            time=self._time,
            random=os.urandom,
            metrics=self.metrics,
            log_bug=self.log.bug,
            is_full=self._is_full,
            came=self._wakeups.came,
            check_push=self._waking.check,
        )
        self._blobs = BlobTraffic(
            ObjectFolder(self._options.data / folder.BLOBS),
            self._config.blobs,
            self._limits,
            self._time,
            self.metrics,
            spread=self._dispatch.spread,
            bug=self._bug,
            problem=self._storage_problem,
        )
        self._workers = Workers(
            sweep_blobs=self._blobs.sweep,
            store=self.store,
            mailboxes=self._mailboxes,
            limits=self._limits,
            time=self._time,
            metrics=self.metrics,
            unused_months=self._config.unused_months,
            report=lambda sentence: self.log.event("attention", level="warning", reason=sentence),
        )
        listener = replace(self._config.listener, connections=min(self._config.listener.connections, descriptors()))
        self._listener = Listener(
            self._loop,
            sockets,
            tls=tls,
            connect=self._connect,
            application=pages.routed(
                pages.public_pages(self.origin, self._push_key.public, self._config.blobs.blob_bytes),
                {blobs.PREFIX: self._blobs},
            ),
            longer=self._blobs.exchange,
            config=listener,
            may_connect=lambda source: not self._limits.spend("connect", self._loop.time(), source=source),
            refused=lambda reason: self.metrics.count("connections_refused", reason=reason),
        )
        self.lifecycle.watch("storage", lambda: self._loop.time() - self._storage_failed_at > STORAGE_UNWELL_S)
        self.lifecycle.remark("expiry paused", lambda: not self._time.may_expire())
        hub = self.hub
        self.metrics.before_scrape("connections", "device", lambda: hub.devices)
        self.metrics.before_scrape("connections", "anonymous", lambda: len(hub) - hub.devices)
        for name, reading in self._readings().items():
            self.metrics.before_scrape(name, "", reading)
        self.metrics.count_before_scrape("commands", lambda: self._dispatch.commands)

    def _readings(self) -> dict[str, Callable[[], float]]:
        """What is read only when someone looks."""
        data = self._options.data
        files = [data / backup.DATABASE, data / f"{backup.DATABASE}-wal"]
        return {
            "strained": lambda: self._dispatch.is_strained,
            "ready": lambda: self.lifecycle.stage is Stage.READY,
            "sockets": lambda: self._listener.sources.total,
            "connections_most": lambda: self._listener.config.connections,
            "greeting": lambda: self._listener.greeting,
            "behind_bytes": lambda: self.hub.behind_bytes,
            "frames_bytes": lambda: self.hub.frames_bytes,
            "memory_bytes": resident_bytes,
            "blobs": lambda: self._blobs.count,
            "blobs_bytes": lambda: self._blobs.used_bytes or 0,
            "blobs_most_bytes": lambda: self._config.blobs.total_bytes,
            "blob_transfers": lambda: self._blobs.transfers,
            "database_bytes": lambda: sum(path.stat().st_size for path in files if path.exists()),
            "disk_free_bytes": lambda: shutil.disk_usage(data).free,
            "certificate_expires_seconds": lambda: self._certificate_expires_s,
            "clock_ahead_seconds": lambda: self._time.guarded.ahead_ms / 1000,
            "expiry_paused": lambda: not self._time.may_expire(),
        }

    def _connect(self, channel: Channel, source: str | None) -> Connection:
        session = ServerSession(
            nonce=os.urandom(32),
            origin=self.origin,
            now_ms=self._time.guarded_ms(),
            generation=self._generation,
        )
        return Connection(
            channel,
            session,
            self._dispatch,
            source=source,
            turn=self._turn,
            time=self._loop.time,
            config=self._config.connection,
        )

    async def _open_ops(self, undo: contextlib.AsyncExitStack) -> None:
        host, _ = split_listen(self._options.ops)
        if not folder.is_loopback(host):
            raise OperatorError("--ops has to be an address of this machine itself, such as 127.0.0.1:9100.", EX_USAGE)
        protocols = http_protocols(self._loop, ops_pages(self.lifecycle, self.metrics.text))
        sock = bind(self._options.ops, "--ops")[0]
        server = await self._loop.create_server(protocols, sock=sock)
        undo.callback(server.close)
        name = f"[{host}]" if ":" in host else host
        self.ops_url = f"http://{name}:{sock.getsockname()[1]}"
        folder.keep(self._options.data, "ops", self.ops_url)
        undo.callback(folder.forget, self._options.data, "ops")

    def _remember_options(self) -> None:
        """For `taube doctor`, which looks at the same port, certificate and settings."""
        options = self._options
        host, _ = split_listen(options.listen)
        port = self.url.rpartition(":")[2]
        served = {"listen": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}
        for name in ("tls_cert", "tls_key", "config"):
            path = getattr(options, name)
            if path is not None:
                served[name] = str(path.resolve())
        folder.keep(options.data, folder.SERVED, json.dumps(served))

    # ------------------------------------------------------------ while it runs

    def reload(self) -> None:
        """Read the certificate again, for connections from now on; the old one stays if the new one is no good.

        The context is a new one: an old one would keep a pair of another type of key beside the one that it is given.
        """
        try:
            self._listener.tls = self._tls()
        except OperatorError as error:
            self.log.event("certificate", level="error", reason=error.sentence)
        else:
            if self._listener.tls is not None:
                self.log.event("certificate", reason="read again")
            self._check_names(self._listener.tls)

    def _is_full(self) -> bool:
        """Whether the last of the room for connections is reached, which is kept to say so to those who come."""
        most = self._listener.config.connections
        return self._listener.sources.total > most - most // FULL_SHARE

    def _changed_behind(self) -> None:
        """Another process wrote the store, such as `taube admin`: look again at what is remembered of it."""
        if self.lifecycle.stage is Stage.STARTING:
            self._loop.call_later(1.0, self._changed_behind)
            return
        self._workers.changed_behind()
        self._renew_keys()

    def _mind_keys(self) -> None:
        self._renew_keys()
        self._keys_timer = self._loop.call_later(KEYS_EVERY_S, self._mind_keys)

    def _renew_keys(self) -> None:
        """Take the address keys as the store has them now: one may be new, one retired for long enough."""

        def done(own: identity.Identity | None, error: WireError | None) -> None:
            if own is not None:
                self._sealer.renew(own.address_keys, own.current_key)

        self.store.write(self._identity, done)

    def _finish_turn(self) -> None:
        """The end of every turn in which something happened: one batch for the store, one timer for patience."""
        self._mailboxes.flush()
        if self._timer is None:
            due = self._mailboxes.next_deadline()
            if due is not None:
                self._timer = self._loop.call_at(due, self._patience_over)

    def _patience_over(self) -> None:
        self._timer = None
        self._mailboxes.tick(self._loop.time())
        self._turn.arm()

    def _check(self) -> None:
        bounds = self._config.connection
        self.hub.check(self._loop.time(), bounds.waiting_bytes_of_all, bounds.frames_bytes_of_all)
        self._check_timer = self._loop.call_later(CHECK_EVERY_S, self._check)

    def _feel_lag(self, expected: float) -> None:
        """How late the loop is: a timer that should come every second."""
        now = time.monotonic()
        self.metrics.observe("loop_lag_seconds", max(0.0, now - expected))
        self._mailboxes.is_strained = self._dispatch.is_strained = now - expected > STRAINED_S
        self._lag_timer = self._loop.call_later(1.0, self._feel_lag, now + 1.0)

    def _start_loops(self) -> None:
        self._loops = self._loop.create_task(self._run_loops())
        self._loops.add_done_callback(self._loops_ended)

    async def _run_loops(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._workers.run())
            group.create_task(self._waking.run())

    def _call(self, queue: QueueNumber, serial: bytes, is_connected: bool) -> None:
        """Something urgent waits for a device that can be woken: it is, unless too much comes over one address."""
        now = self._loop.time()
        if self._wakeups.wants(queue, now) and not self._limits.spend("wake", now, serial=serial):
            self._waking.call(queue, is_connected)

    def _loops_ended(self, loops: asyncio.Task[None]) -> None:
        """They only end when they are told to; a bug in one is reported, and all of them begin again."""
        error = None if loops.cancelled() else loops.exception()
        if error is not None:
            self.metrics.count("bugs")
            self.log.bug(error)
            self._loop.call_later(LOOPS_AGAIN_S, self._start_loops_after, loops)

    def _start_loops_after(self, ended: asyncio.Task[None]) -> None:
        if self._loops is ended:
            self._start_loops()

    async def _stop_loops(self) -> None:
        loops, self._loops = self._loops, None
        if loops is not None:
            loops.cancel()
            await asyncio.gather(loops, return_exceptions=True)

    def _storage_problem(self, what: str, error: BaseException) -> None:
        self._storage_failed_at = self._loop.time()
        self.metrics.count("storage_problems")
        self.log.event("storage", level="error", reason=what, kind=type(error).__name__)

    def _stop_checking(self) -> None:
        for timer in (self._check_timer, self._lag_timer, self._keys_timer, self._timer):
            if timer is not None:
                timer.cancel()

    def _bug(self, error: BaseException) -> None:
        self.metrics.count("bugs")
        self.log.bug(error)

    def _unforeseen(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception) and not ends_one_connection(error):
            self._bug(error)

    # ------------------------------------------------------------ stop

    @property
    def stop_most_s(self) -> float:
        """How long `stop` takes at most, unless the disk hangs."""
        return self._config.drain.most_s

    async def stop(self) -> None:
        """Drain: accept no more, tell the clients, finish what was begun, close everything.

        While the disk hangs it waits; `serve` does not (`ended_within`).
        """
        self.lifecycle.move(Stage.DRAINING)
        self.log.event("draining", reason=self.lifecycle.reason, open_connections=len(self.hub))
        drain = self._config.drain
        self._listener.stop()
        self._dispatch.drain(drain.spread_ms)
        spread = random.Random(int.from_bytes(os.urandom(8), "big"))
        self.hub.announce(lambda: spread.randint(LEAST_SPREAD_MS, drain.spread_ms))
        await self._until(lambda: len(self.hub) == 0, drain.goodbye_s)
        self.hub.close_all()
        await self._until(lambda: len(self.hub) == 0, drain.goodbye_s)
        self.hub.abort_all()
        self._listener.give_up()
        await self._blobs.end(drain.goodbye_s)
        await asyncio.sleep(0)
        self._mailboxes.flush()
        await self._until(lambda: self.store.backlog_bytes() == 0, drain.flush_s)
        with contextlib.suppress(WireError):
            await self._workers.mind_clock()
        await self._resources.aclose()
        self.lifecycle.move(Stage.STOPPED)
        self.log.event("stopped")

    async def _until(self, is_done: Callable[[], bool], most_s: float) -> None:
        end = self._loop.time() + most_s
        while not is_done() and self._loop.time() < end:
            await asyncio.sleep(0.02)


def wall_ms() -> int:
    """Milliseconds since 1970, as the machine believes."""
    return int(time.time() * 1000)


def split_listen(text: str) -> tuple[str, int]:
    """HOST:PORT as its two parts; an IPv6 address in brackets; an empty host means every address."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise OperatorError(f"“{text}” is no HOST:PORT, such as 127.0.0.1:8080.", EX_USAGE)
    return host.removeprefix("[").removesuffix("]"), int(port)


def bind(listen: str, option: str = "--listen") -> list[socket.socket]:
    """Sockets that listen on HOST:PORT; what comes waits until it is accepted. Raises OperatorError."""
    host, port = split_listen(listen)
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found[: 1 if port == 0 else None]:
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
    except OSError as error:
        for sock in sockets:
            sock.close()
        if short := shortage.sentence(error.errno, listen):
            raise OperatorError(short, EX_CONFIG) from error
        why = error.strerror.lower() if error.strerror else "not possible"
        raise OperatorError(
            f"{listen} cannot be listened on ({why}): choose another address or port with {option}.", EX_UNAVAILABLE
        ) from error
    except UnicodeError as error:  # getaddrinfo writes a name as IDNA first
        raise OperatorError(f"{host} is no name of a host: choose another one with {option}.", EX_USAGE) from error
    return sockets


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def raise_open_files() -> int:
    """Raise the limit of open files as far as allowed; gives what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return 1_000_000 if soft == resource.RLIM_INFINITY else soft


def descriptors() -> int:
    """How many connections the limit of open files leaves room for."""
    return max(16, raise_open_files() - SPARE_DESCRIPTORS)
