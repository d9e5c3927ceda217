"""What goes wrong for a person, each as one sentence that says what to do, with its exit code after sysexits.

    UserError
    ├── WrongInput           64, 65: a link, name or text that cannot be what is meant
    ├── NoAccount            66: the home folder holds no account, or no such chat
    ├── HomeUnusable         73 to 78: passphrase, permissions, a full disk, a newer version, a damaged database
    ├── DeviceReplaced       77: another copy of the home took the account over
    ├── Refused              69, 77: the server said no, for good
    └── TryLater             75: no connection, or the server is busy; what was queued stays queued

Nothing here knows where an error is shown. Source: docs/sdk.md, "Errors".
"""

from taube.exits import EX_CONFIG, EX_DATAERR, EX_NOINPUT, EX_NOPERM, EX_SOFTWARE, EX_TEMPFAIL, EX_UNAVAILABLE
from taube.wire.errors import TaubeError


class UserError(TaubeError):
    """One sentence for a person, and the exit code of a command that ends with it."""

    exit_code: int = EX_SOFTWARE

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if exit_code is not None:
            self.exit_code = exit_code


class WrongInput(UserError):
    """What was given (a link, a name, a text) cannot be used as it is."""

    exit_code = EX_DATAERR


class NoAccount(UserError):
    """The home folder holds no account yet, or the account has no such chat."""

    exit_code = EX_NOINPUT


class HomeUnusable(UserError):
    """The home folder cannot be opened: passphrase, permissions, newer version, damage. Nothing in it was changed."""

    exit_code = EX_CONFIG


class DeviceReplaced(UserError):
    """Another copy of this home became the account's device; this one can only be read."""

    exit_code = EX_NOPERM


class Refused(UserError):
    """The server refused for a reason that waiting does not mend."""

    exit_code = EX_UNAVAILABLE


class TryLater(UserError):
    """It could not be done now; trying again later may work. What was queued stays queued."""

    exit_code = EX_TEMPFAIL
