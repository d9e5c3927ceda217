"""What the command line writes to a person: safe text, colours, QR codes, questions and progress.

Whatever another person can choose (names, texts) goes through `safe_line` or `safe_text` before it reaches a terminal:
control characters, line separators and marks that turn the reading direction are shown as `�`, so that a stranger's
message can neither move the cursor, change colours, fake another line nor turn around what stands next to it. Colours,
QR codes and progress appear on a terminal only, never in a pipe. The one importer of segno.
"""

import json
import os
import signal
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO, TextIOWrapper
from types import TracebackType
from typing import Final, TextIO

_REPLACEMENT: Final = "\ufffd"
_JOINERS: Final = frozenset("\u200c\u200d\u200e\u200f\u00ad\u2060\ufe0e\ufe0f")
"""Format characters that scripts and emoji need, and that cannot reach beyond their neighbours."""
_MARKS_MOST: Final = 4
_HARMFUL_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def is_harmful(character: str) -> bool:
    """Whether *character* could act on the terminal or on the text around it, instead of being shown."""
    if " " <= character <= "~":
        return False
    return (
        unicodedata.category(character) in _HARMFUL_CATEGORIES and character not in _JOINERS and not _is_tag(character)
    )


def _is_tag(character: str) -> bool:
    return "\U000e0020" <= character <= "\U000e007f"


def safe_line(text: str) -> str:
    """*text* as one line that cannot harm a terminal; line breaks and tabs become spaces, and few marks stay on a
    letter: piled up, they would cover the lines around it."""
    safe, marks = [], 0
    for character in text:
        if unicodedata.category(character).startswith("M"):
            marks += 1
            if marks > _MARKS_MOST:
                continue
        elif character not in _JOINERS:
            marks = 0
        safe.append(_safe_character(" " if character in "\n\t" else character))
    return "".join(safe)


def safe_text(text: str, indent: str) -> str:
    """*text* with its line breaks, every further line behind *indent*, so that it cannot pass for another message."""
    return f"\n{indent}".join(safe_line(line) for line in text.replace("\r\n", "\n").split("\n"))


def _safe_character(character: str) -> str:
    return _REPLACEMENT if is_harmful(character) else character


def json_line(record: dict[str, object]) -> str:
    """*record* as one line of JSON; characters that could harm a terminal are escaped, all others are as they are."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(_escape(character) if is_harmful(character) else character for character in text)


def _escape(character: str) -> str:
    return json.dumps(character)[1:-1]


class Terminal:
    """Where a command writes: *out* for what was asked for, *err* for everything else; tests give their own streams."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None, inp: TextIO | None = None) -> None:
        self.out = out or sys.stdout or StringIO()  # None when the caller closed it
        self.err = err or sys.stderr or StringIO()
        self.inp = inp or sys.stdin or StringIO()
        self.plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        for stream in (self.out, self.err):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")

    @property
    def is_out_terminal(self) -> bool:
        """Whether a person reads *out* directly."""
        return self.out.isatty()

    @property
    def can_ask(self) -> bool:
        """Whether a person is there to answer."""
        return self.inp.isatty() and self.err.isatty()

    def line(self, text: str = "") -> None:
        """One line to *out*, at once."""
        print(text, file=self.out, flush=True)

    def json(self, record: dict[str, object]) -> None:
        """*record* as one line of JSON to *out*, at once, in whatever encoding *out* has."""
        encoding = (getattr(self.out, "encoding", None) or "utf-8").lower()
        self.line(json_line(record) if encoding.startswith("utf") else json.dumps(record, separators=(",", ":")))

    def hint(self, text: str) -> None:
        """One line to *err* that a person may want to know; nothing in a pipe."""
        if self.err.isatty():
            print(self.dim(text, self.err), file=self.err, flush=True)

    def warn(self, sentence: str) -> None:
        """One sentence to *err*."""
        print(f"taube: {safe_line(sentence)}", file=self.err, flush=True)

    def bold(self, text: str) -> str:
        """*text* in bold if *out* is a terminal."""
        return self._styled("1", text, self.out)

    def dim(self, text: str, stream: TextIO | None = None) -> str:
        """*text* faint if the stream is a terminal."""
        return self._styled("2", text, stream or self.out)

    def colour_of(self, name: str) -> str:
        """*name* in bold and in a colour that is always the same for it."""
        return self._styled(f"1;{31 + sum(name.encode('utf-8', 'replace')) % 6}", name, self.out)

    def _styled(self, code: str, text: str, stream: TextIO) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if stream.isatty() and not self.plain else text

    def progress(self, text: str) -> "Progress":
        """Show *text* on a terminal while the `with` block runs."""
        return Progress(text, self)

    def ask(self, question: str) -> str:
        """One line from a person. Call only if `can_ask`."""
        print(question, end=" ", file=self.err, flush=True)
        with interruptible():
            return self.inp.readline().strip()

    def read_text(self, most: int) -> str:
        """Standard input to its end, at most *most* characters. Raises UnicodeDecodeError."""
        with interruptible():
            return self.inp.read(most)

    def ask_secret(self, question: str) -> str:
        """A line that is not shown while it is typed. Call only if `can_ask`."""
        from getpass import getpass

        with interruptible():
            return getpass(f"{question} ")


@contextmanager
def interruptible() -> Iterator[None]:
    """While a person is waited for, Ctrl-C interrupts at once; a running event loop would only take note of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Progress:
    """A line that says what takes time; gone afterwards; never in a pipe."""

    def __init__(self, text: str, terminal: Terminal) -> None:
        self._text = text
        self._terminal = terminal
        self._stream = terminal.err
        self._shown = terminal.err.isatty() and not terminal.plain

    def __enter__(self) -> "Progress":
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hide()

    def tell(self, sentence: str) -> None:
        """One sentence that stays, above the line; also in a pipe."""
        self._hide()
        self._terminal.warn(sentence)
        self._show()

    def _show(self) -> None:
        if self._shown:
            self._stream.write(f"\x1b[2m{self._text} …\x1b[0m")
            self._stream.flush()

    def _hide(self) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def qr_code(text: str) -> str:
    """*text* as a QR code in half blocks, dark on light by explicit colours, for a terminal of any background."""
    import segno

    matrix = [[bool(module) for module in row] for row in segno.make(text, error="l", micro=False).matrix]
    width = len(matrix[0])
    empty = [False] * (width + 4)
    rows = [empty, empty, *([False, False, *row, False, False] for row in matrix), empty, empty]
    if len(rows) % 2:
        rows.append(empty)
    lines = []
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        blocks = "".join(_BLOCKS[pair] for pair in zip(upper, lower, strict=True))
        lines.append(f"\x1b[30;107m{blocks}\x1b[0m")
    return "\n".join(lines)


_BLOCKS: Final = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
