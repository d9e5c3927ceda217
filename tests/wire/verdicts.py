"""What Python makes of frames, for comparison with another implementation: hex lines in, one verdict a line out.

    python -m tests.wire.verdicts < frames

A verdict has two parts, for a server that reads the frame and for a client: the frame that Python writes for the
message that it read, or `!` with the number of the error and the request id.
"""

import sys
from collections.abc import Callable

from taube.wire import codec
from taube.wire.errors import FrameError


def verdict(read: Callable[[bytes], codec.Message], frame: bytes) -> str:
    """One part."""
    try:
        return codec.encode(read(frame)).hex()
    except FrameError as error:
        return f"!{error.kind.code}/{error.request}"


if __name__ == "__main__":
    for line in sys.stdin:
        data = bytes.fromhex(line.strip())
        print(verdict(codec.decode_command, data), verdict(codec.decode_reply_or_event, data))
