"""The exit codes of every command, numbered as in sysexits.h.

Both ends and the command line take them from here. What they mean to whoever types a command stands in `taube --help`.
This file does not know which error ends with which code: each error says so itself.
"""

from typing import Final

EX_USAGE: Final = 64
"""The command was typed wrongly."""
EX_DATAERR: Final = 65
"""What was given is no good."""
EX_NOINPUT: Final = 66
"""What was named does not exist."""
EX_UNAVAILABLE: Final = 69
"""Refused for a reason that waiting does not mend."""
EX_SOFTWARE: Final = 70
"""A bug in Taube."""
EX_CANTCREAT: Final = 73
"""Something is already there, or cannot be created."""
EX_IOERR: Final = 74
"""A disk failed."""
EX_TEMPFAIL: Final = 75
"""Not now, but later."""
EX_NOPERM: Final = 77
"""Not permitted."""
EX_CONFIG: Final = 78
"""The configuration, or a folder, does not fit."""
