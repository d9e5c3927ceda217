"""What a machine can run out of, and what to do then: room on a disk, and files that may be open.

Whoever meets an error of the operating system asks here first, so that nobody is told to look at who owns a file while
the disk is full. Where a library hides the error of the system (SQLite), `of_folder` tries.
"""

import errno
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Final

ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
DISK: Final = (*ROOM, errno.EROFS, errno.EIO)
"""The disk is at fault, not what is on it."""
FILES: Final = (errno.EMFILE, errno.ENFILE)
_TRIED_FILES: Final = 8
_TRIED_BYTES: Final = 256 * 1024


def sentence(number: int | None, place: Path | str) -> str:
    """What the error *number* of the system means for *place*; empty if it is no shortage."""
    if number == errno.ENOSPC:
        return f"The disk that holds {place} is full. Make room and try again: that is safe, nothing is lost."
    if number == errno.EDQUOT:
        return (
            f"What this user may keep on the disk that holds {place} is used up (its quota). Make room or raise it, and"
            " try again: that is safe, nothing is lost."
        )
    if number == errno.EMFILE:
        return (
            "This process may not open as many files as it needs: raise the limit of open files (LimitNOFILE= in its"
            " unit, ulimit -n)."
        )
    if number == errno.ENFILE:
        return "This machine has as many files open as it allows: end what opens so many, or raise fs.file-max."
    return ""


def of_folder(folder: Path) -> int | None:
    """The error of the system that keeps files in *folder* from being opened and written now; None if none does.

    It writes a little into files without a name, which are gone afterwards.
    """
    import tempfile  # only here: a command that needs it not starts sooner

    try:
        with ExitStack() as files:
            opened = [files.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(_TRIED_FILES)]
            opened[0].write(bytes(_TRIED_BYTES))
            opened[0].flush()
            os.fsync(opened[0].fileno())
    except OSError as error:
        return error.errno
    return None
