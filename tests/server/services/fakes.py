"""Stand-ins for connections, for tests of the mailboxes: they record what they were told."""

from taube.wire.errors import WireError


class FakeSender:
    """Whoever sends: request -> statuses, or the error."""

    def __init__(self) -> None:
        self.answers: dict[int, bytes | WireError] = {}

    def sent(self, request: int, statuses: bytes) -> None:
        assert request not in self.answers, "a Send is answered once"
        self.answers[request] = statuses

    def send_failed(self, request: int, error: WireError) -> None:
        assert request not in self.answers, "a Send is answered once"
        self.answers[request] = error


class FakeLink:
    """A device connection: what was delivered, and how it ended."""

    def __init__(self) -> None:
        self.delivered: list[tuple[int, bytes, bytes]] = []
        self.told: list[str | int] = []

    def deliver(self, number: int, serial: bytes, body: bytes) -> None:
        self.delivered.append((number, serial, body))

    def caught_up(self, upto: int) -> None:
        self.told.append(upto)

    def replaced(self) -> None:
        self.told.append("replaced")

    def ended(self) -> None:
        self.told.append("ended")

    def unavailable(self) -> None:
        self.told.append("unavailable")

    @property
    def bodies(self) -> list[bytes]:
        """Bodies delivered, ephemeral ones left out."""
        return [body for number, _, body in self.delivered if number]
