"""The story of each command, one readable method each: who may, how often, which services, what follows, the reply.

Commands that touch tables run as one job in one transaction of the store, off the event loop; the reply follows what is
durable. Sends and acknowledgements go to `services.mailboxes`, which settles them in batches and calls back.
Services do not know each other: what happens together is written here.
Source: docs/protocol/delivery.md and identity.md; each method names its command.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from taube.server import clock
from taube.server.gateway.connection import Connection
from taube.server.gateway.hub import Hub
from taube.server.limits import Limits
from taube.server.ports import Clock, MailboxId, Metrics, PushRow, QueueNumber, Random, Tables, TableStore, Verify
from taube.server.services import accounts, addresses, gates, keys, registration
from taube.server.services.addresses import Sealer
from taube.server.services.mailboxes import Mailboxes
from taube.wire.errors import ADDRESS_GONE, BAD_FRAME, BUSY, DEVICE_REVOKED, DRAINING, Retry, WireError
from taube.wire.messages import (
    AccountId,
    Acknowledge,
    AskKnowledge,
    Certificate,
    ClaimGate,
    ClaimKeyPackage,
    Command,
    DeleteAccount,
    DeviceId,
    Done,
    FetchCertificate,
    GateName,
    GateState,
    KeyPackageClaimed,
    Knowledge,
    LoggedIn,
    Login,
    MintAddresses,
    Minted,
    PublishDeviceList,
    Published,
    PublishKeyPackages,
    ReadGate,
    Register,
    Reply,
    RevokeAddress,
    SealedAddress,
    Send,
    SetPush,
    SwapMark,
)
from taube.wire.session import MAX_UNDER_WAY, login_message

PAID_AHEAD: Final = 63
"""Addresses, and KiB of bodies, that a connection which sends much is charged in advance at most."""

FULL_RETRY_MS: Final = 10_000
STRAINED_RETRY_MS: Final = 5_000
SOON_MS: Final = 1_000
SPREAD_MOST_MS: Final = 10_000

Job = Callable[[Tables], Any]
Then = Callable[[Any], Reply | None]


class Dispatch:
    """Carries out commands; the Handler of every connection."""

    def __init__(
        self,
        *,
        origin: str,
        store: TableStore,
        mailboxes: Mailboxes,
        sealer: Sealer,
        verify: Verify,
        hub: Hub,
        limits: Limits,
        time: Clock,
        random: Random,
        metrics: Metrics,
        log_bug: Callable[[BaseException], None],
        under_way: int = MAX_UNDER_WAY,
        is_full: Callable[[], bool] = lambda: False,
        came: Callable[[QueueNumber], None] = lambda queue: None,
        check_push: Callable[[PushRow, Callable[[WireError | None], None]], None] = lambda row, done: done(None),
    ) -> None:
        """*came*: that device is here, or is no more. *check_push*: tells, later, whether it may be woken by that."""
        self._came = came
        self._check_push = check_push
        self._push_looks: dict[QueueNumber, list[object]] = {}
        """Of each device whose endpoint is being checked, a token for each request, in the order in which they came."""
        self._origin = origin
        self._store = store
        self._mailboxes = mailboxes
        self._seal, self._open = sealer.seal, sealer.open
        self._sealer = sealer
        self._verify = verify
        self._hub = hub
        self._check = limits.check
        self._time = time
        self._random = random
        self._metrics = metrics
        self._log_bug = log_bug
        self._under_way = under_way
        self._draining_ms = 0
        self._is_full = is_full
        self.is_strained = False
        """The process is behind: what can wait is refused."""
        self.commands = 0
        self._stories: dict[type, Callable[[Connection, Any], None]] = {
            Send: self._send,
            Acknowledge: self._acknowledge,
            Register: self._register,
            Login: self._login,
            MintAddresses: self._mint_addresses,
            RevokeAddress: self._revoke_address,
            PublishKeyPackages: self._publish_key_packages,
            ClaimKeyPackage: self._claim_key_package,
            ClaimGate: self._claim_gate,
            ReadGate: self._read_gate,
            PublishDeviceList: self._publish_device_list,
            FetchCertificate: self._fetch_certificate,
            AskKnowledge: self._ask_knowledge,
            DeleteAccount: self._delete_account,
            SwapMark: self._swap_mark,
            SetPush: self._set_push,
        }

    # ------------------------------------------------------------ what connections tell

    def opened(self, connection: Connection) -> None:
        """Take it in, or, when hardly any room is left, tell it in words when to come back."""
        self._hub.add(connection)
        if self._is_full():
            self._metrics.count("connections_refused", reason="connections")
            connection.refuse(0, WireError(BUSY, retry_after_ms=FULL_RETRY_MS))
            connection.close(1013)

    def command(self, connection: Connection, command: Command) -> None:
        if isinstance(command, Acknowledge):
            self._acknowledge(connection, command)
            return
        try:
            self._admit(connection, command)
            self._stories[type(command)](connection, command)
        except WireError as error:
            self._refuse(connection, getattr(command, "request", 0), error)

    def mistake(self, connection: Connection, error: WireError) -> None:
        """A frame that is no command, or not now: answer it, and end whoever sends too many."""
        self._metrics.count("refused", reason=error.kind.name)
        self._check("junk", self._time.monotonic(), connection=connection.budgets)

    def bug(self, error: Exception) -> None:
        self._metrics.count("bugs")
        self._log_bug(error)

    def spread(self, error: WireError) -> WireError:
        """*error* with up to as much again added to the time after which to try again, 10 s at most.

        What will pass and names no time gets one.
        """
        wait_ms = error.retry_after_ms or (SOON_MS if error.kind.retry is Retry.LATER else 0)
        if not wait_ms:
            return error
        more_ms = min(wait_ms, SPREAD_MOST_MS) * int.from_bytes(self._random(2), "big") // 65_536
        return WireError(error.kind, retry_after_ms=wait_ms + more_ms, detail=error.detail)

    def cut_off(self, connection: Connection, reason: str) -> None:
        self._metrics.count("connections_closed", reason=reason)

    def closed(self, connection: Connection) -> None:
        if connection.device is not None:
            self._mailboxes.detach(connection, self._time.monotonic())
        self._hub.remove(connection)

    def drain(self, retry_after_ms: int) -> None:
        """Refuse every command from now on but acknowledgements."""
        self._draining_ms = retry_after_ms

    # ------------------------------------------------------------ messages

    def _send(self, connection: Connection, command: Send) -> None:
        """Open each address; the mailboxes answer when the slowest is acknowledged or durable."""
        now, count = self._time.monotonic(), len(command.addresses)
        if count > 1 and len(set(command.addresses)) < count:
            raise WireError(BAD_FRAME, detail="An address stands in the list twice.")
        size = count * len(command.body)
        if connection.paid_addresses < count or connection.paid_bytes < size:
            self._pay_send(connection, count, size, now)
        connection.paid_addresses -= count
        connection.paid_bytes -= size
        connection.under_way += 1
        opened = [self._open(address) for address in command.addresses]
        self._mailboxes.send(connection, command.request, command.flags, opened, command.body, now)

    def _pay_send(self, connection: Connection, count: int, size: int, now: float) -> None:
        """Charge a Send to its budgets, and some in advance for a connection that sends much: asking for each costs
        more than the rest of it. Raises RATE_LIMITED with the time to wait."""
        budgets, source, ahead = connection.budgets, connection.source, connection.paid_ahead
        connection.paid_ahead = min(2 * ahead + 1, PAID_AHEAD)
        while True:
            try:
                self._check("send", now, count + ahead, connection=budgets, source=source)
                self._check("send bytes", now, size + ahead * 1024, connection=budgets, source=source)
                break
            except WireError:
                if not ahead:
                    raise
                ahead = connection.paid_ahead = 0
        connection.paid_addresses += count + ahead
        connection.paid_bytes += size + ahead * 1024

    def _acknowledge(self, connection: Connection, command: Acknowledge) -> None:
        self._mailboxes.acknowledge(connection, command.upto, self._time.monotonic())

    # ------------------------------------------------------------ accounts

    def _register(self, connection: Connection, command: Register) -> None:
        """Check what is signed and the invitation, then take one use of it and make the account, together or not at
        all.
        """
        self._limit("register", connection)
        new = accounts.check_new(command.genesis, command.device_list, self._verify)
        now_ms = self._time.guarded_ms()

        def look(tables: Tables) -> bool:
            if accounts.exists(tables, new):
                return True
            registration.check(tables, command.invitation, now_ms)
            return False

        def looked(exists: bool) -> Reply | None:
            if exists:
                return Done(command.request)
            self._check("register, invited", self._time.monotonic())
            self._write(connection, command.request, job, lambda _: Done(command.request))
            return None

        def job(tables: Tables) -> None:
            if accounts.exists(tables, new):
                return
            registration.redeem(tables, command.invitation, now_ms)
            accounts.create(tables, new, clock.month_of(now_ms), self._random)

        self._read(connection, command.request, look, looked)

    def _login(self, connection: Connection, command: Login) -> None:
        """Find the device whose key signed this connection's nonce; note the month; renew an overfull mailbox id."""
        self._limit("login", connection)
        message = login_message(self._origin, command.device, connection.session.nonce)
        account, device = AccountId(command.account), DeviceId(command.device)
        month = clock.month_of(self._time.guarded_ms())

        def look(tables: Tables) -> tuple[accounts.LoginFacts, bool, keys.Stock]:
            facts = accounts.log_in(tables, account, device, message, command.signature, self._verify)
            queue = facts.row.queue
            return facts, addresses.needs_renewal(tables, queue), keys.stock(tables, queue)

        def change(tables: Tables) -> tuple[accounts.LoginFacts, MailboxId | None, keys.Stock]:
            facts, renew, stock = look(tables)
            accounts.touch(tables, account, month)
            if renew:
                addresses.renew(tables, facts.row.queue, self._random)
                renewed = accounts.log_in(tables, account, device, message, command.signature, self._verify)
                return renewed, facts.row.mailbox, stock
            return facts, None, stock

        def looked(found: tuple[accounts.LoginFacts, bool, keys.Stock]) -> None:
            facts, renew, _ = found
            self._check("login, signed", self._time.monotonic(), device=facts.row.queue)
            if renew or facts.used_month != month:
                self._write(connection, command.request, change, lambda changed: enter(*changed))
            else:
                enter(facts, None, found[2])

        def enter(facts: accounts.LoginFacts, renewed: MailboxId | None, stock: keys.Stock) -> None:
            row = facts.row
            if renewed is not None:
                self._mailboxes.renewed(renewed, row.mailbox)
            if not connection.is_open:
                return
            left = (stock.classic, stock.hybrid, stock.last_resorts)
            connection.send(LoggedIn(command.request, *left, remint=row.remint, wakes=facts.wakes))
            connection.device = row
            self._hub.serves(row.queue, connection)
            self._came(row.queue)
            self._mailboxes.attach(row.mailbox, row.queue, connection, self._time.monotonic())

        self._read(connection, command.request, look, looked)

    def _publish_device_list(self, connection: Connection, command: PublishDeviceList) -> None:
        """Check the list, and only then charge it to its account: anyone can send rubbish, or the list that stands."""
        self._limit("publish device list", connection)
        account = AccountId(command.account)

        def look(tables: Tables) -> bool:
            return accounts.check_newer(tables, account, command.device_list, self._verify) is not None

        def looked(is_newer: bool) -> Reply | None:
            if not is_newer:
                return Done(command.request)
            self._check("publish device list, signed", self._time.monotonic(), account=account)
            self._write(connection, command.request, job, then)
            return None

        def job(tables: Tables) -> accounts.Change:
            return accounts.publish_list(tables, account, command.device_list, self._verify, self._random)

        def then(change: accounts.Change) -> None:
            connection.send(Done(command.request))
            self.end(change.ended)
            return None

        self._read(connection, command.request, look, looked)

    def _fetch_certificate(self, connection: Connection, command: FetchCertificate) -> None:
        self._limit("fetch certificate", connection)
        account = AccountId(command.account)
        self._read(
            connection,
            command.request,
            lambda tables: accounts.certificate(tables, account),
            lambda found: Certificate(command.request, *found),
        )

    def _ask_knowledge(self, connection: Connection, command: AskKnowledge) -> None:
        self._limit("ask knowledge", connection)
        account = connection.device.account

        self._read(
            connection,
            command.request,
            lambda tables: knows(tables, account),
            lambda facts: Knowledge(command.request, facts),
        )

    def _delete_account(self, connection: Connection, command: DeleteAccount) -> None:
        self._limit("delete account", connection)
        account = connection.device.account

        def then(ended: list[QueueNumber]) -> None:
            connection.send(Done(command.request))
            connection.close()
            self.end(ended)

        self._write(connection, command.request, lambda tables: accounts.delete(tables, account), then)

    # ------------------------------------------------------------ what a device keeps here

    def _swap_mark(self, connection: Connection, command: SwapMark) -> None:
        self._limit("swap mark", connection)
        queue = connection.device.queue
        self._write(
            connection,
            command.request,
            lambda tables: accounts.swap_mark(tables, queue, command.expected, command.new),
            lambda _: Done(command.request),
        )

    def _set_push(self, connection: Connection, command: SetPush) -> None:
        """Look where the endpoint leads before it is kept: a server shall not knock at its neighbours' doors. An older
        request whose look takes longer than that of a newer one changes nothing, unless the newer one is refused.
        Source: WAK-01."""
        self._limit("set push", connection)
        queue, mailbox, look = connection.device.queue, connection.device.mailbox, object()
        row = PushRow(command.endpoint, command.key, command.secret) if command.endpoint else None

        def job(tables: Tables) -> None:
            _expect_device(tables, queue)
            tables.set_push(queue, row)

        def then(_: object) -> Reply:
            self._mailboxes.set_wakes(mailbox, row is not None)
            return Done(command.request)

        def checked(error: WireError | None) -> None:
            connection.under_way -= 1
            if look not in looks:  # a newer one is kept
                connection.send(Done(command.request))
            elif error is not None:
                looks.remove(look)
                self._refuse(connection, command.request, error)
            else:
                del looks[: looks.index(look) + 1]
                self._write(connection, command.request, job, then)
            if not looks:
                self._push_looks.pop(queue, None)

        connection.under_way += 1
        looks = self._push_looks.setdefault(queue, [])
        looks.append(look)
        if row is None:
            checked(None)
        else:
            self._check_push(row, checked)

    def end(self, queues: list[QueueNumber]) -> None:
        """Devices are no more: their mailboxes end, and their connections."""
        for queue in queues:
            self._came(queue)
        self._mailboxes.ended(queues)
        self._hub.end(queues)

    # ------------------------------------------------------------ addresses

    def _mint_addresses(self, connection: Connection, command: MintAddresses) -> None:
        self._limit("mint", connection, command.count)
        row = connection.device

        def reply(_: object = None) -> Reply:
            return Minted(command.request, addresses.mint(self._seal, row.mailbox, command.count, self._random))

        if not row.remint:
            connection.send(reply())
            return
        connection.device = row._replace(remint=False)
        self._write(connection, command.request, lambda tables: addresses.minted(tables, row.queue), reply)

    def _revoke_address(self, connection: Connection, command: RevokeAddress) -> None:
        self._limit("revoke", connection)
        queue, mailbox = connection.device.queue, connection.device.mailbox

        def then(_: object) -> Reply:
            self._mailboxes.revoked(mailbox, command.serial)
            return Done(command.request)

        def job(tables: Tables) -> None:
            _expect_device(tables, queue)
            addresses.revoke(tables, queue, command.serial)

        self._write(connection, command.request, job, then)

    # ------------------------------------------------------------ key packages

    def _publish_key_packages(self, connection: Connection, command: PublishKeyPackages) -> None:
        self._limit("publish key packages", connection)
        queue, now_ms = connection.device.queue, self._time.guarded_ms()

        def job(tables: Tables) -> int:
            _expect_device(tables, queue)
            return keys.publish(
                tables, queue, command.suite, command.packages, command.last_resort, command.replace, now_ms
            )

        self._write(connection, command.request, job, lambda left: Published(command.request, left))

    def _claim_key_package(self, connection: Connection, command: ClaimKeyPackage) -> None:
        """Whoever holds a live address may have a package of the device behind it, with its account's certificate."""
        pair = self._open(command.address)
        if pair is None:
            raise WireError(ADDRESS_GONE)
        self._limit("claim key package", connection, serial=pair[1])

        def job(tables: Tables) -> tuple[bytes, bytes, bytes]:
            opened = addresses.open_live(tables, self._sealer, SealedAddress(command.address))
            row = tables.device_at(opened.mailbox) if opened is not None else None
            if row is None:
                raise WireError(ADDRESS_GONE)
            genesis, device_list = accounts.certificate(tables, row.account)
            return keys.claim(tables, row.queue, command.suite), genesis, device_list

        self._write(connection, command.request, job, lambda found: KeyPackageClaimed(command.request, *found))

    # ------------------------------------------------------------ gates

    def _claim_gate(self, connection: Connection, command: ClaimGate) -> None:
        self._limit("claim gate", connection)
        self._limit("gate bytes", connection, len(command.value))
        now_ms = self._time.guarded_ms()
        self._write(
            connection,
            command.request,
            lambda tables: gates.claim(tables, GateName(command.name), command.value, now_ms),
            lambda value: GateState(command.request, value),
        )

    def _read_gate(self, connection: Connection, command: ReadGate) -> None:
        self._limit("read gate", connection)
        self._read(
            connection,
            command.request,
            lambda tables: gates.read(tables, GateName(command.name)),
            lambda value: GateState(command.request, value),
        )

    # ------------------------------------------------------------ how every story runs

    def _admit(self, connection: Connection, command: Command) -> None:
        """Refuse early: while draining, or with too many requests under way."""
        self.commands += 1
        if self._draining_ms:
            raise WireError(DRAINING, retry_after_ms=self._draining_ms)
        if connection.under_way >= self._under_way:
            raise WireError(BUSY, retry_after_ms=500)
        if self.is_strained and isinstance(command, Register):  # newcomers wait, so that those here are served
            raise WireError(BUSY, retry_after_ms=STRAINED_RETRY_MS)

    def _limit(
        self,
        operation: str,
        connection: Connection,
        amount: float = 1,
        *,
        serial: bytes | None = None,
    ) -> None:
        """Charge what is asked to everyone it is charged to; a device on its own connection only, by its queue: device
        ids are public, and another account may name them. Raises RATE_LIMITED with the time to wait.
        """
        row = connection.device
        self._check(
            operation,
            self._time.monotonic(),
            amount,
            connection=connection.budgets,
            source=connection.source,
            device=row.queue if row is not None else None,
            serial=serial,
        )

    def _write(self, connection: Connection, request: int, job: Job, then: Then) -> None:
        connection.under_way += 1
        self._store.write(job, self._done(connection, request, then))

    def _read(self, connection: Connection, request: int, job: Job, then: Then) -> None:
        connection.under_way += 1
        self._store.read(job, self._done(connection, request, then))

    def _done(self, connection: Connection, request: int, then: Then) -> Callable[[Any, WireError | None], None]:
        """What follows a job: its effects and the reply, or the refusal, which *then* may raise too. Effects follow
        even if the asker has gone.
        """

        def done(result: Any, error: WireError | None) -> None:
            connection.under_way -= 1
            if error is not None:
                self._refuse(connection, request, error)
                return
            try:
                reply = then(result)
                if reply is not None:
                    connection.send(reply)
            except WireError as refusal:
                self._refuse(connection, request, refusal)
            except Exception as bug:
                connection.bug(bug)

        return done

    def _refuse(self, connection: Connection, request: int, error: WireError) -> None:
        self._metrics.count("refused", reason=error.kind.name)
        connection.refuse(request, error)


def _expect_device(tables: Tables, queue: QueueNumber) -> None:
    """Nothing is written for a device that ended while its command waited: nobody would forget it again."""
    if tables.device_of(queue) is None:
        raise WireError(DEVICE_REVOKED)


def knows(tables: Tables, account: AccountId) -> list[Any]:
    """Everything the server holds about an account, gathered from the services that hold it."""
    holdings = accounts.Holdings(partial(keys.knows, tables), partial(addresses.knows, tables))
    return accounts.knows(tables, account, holdings)
