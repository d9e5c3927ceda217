"""What reaches a terminal: nothing that a stranger could steer it with; colours and codes only where a person looks."""

import io
import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taube.terminal import Terminal, is_harmful, json_line, qr_code, safe_line, safe_text
from tests.spec import spec


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@spec("CNT-10")
@given(st.text())
def test_a_safe_line_has_no_control_characters_and_is_one_line(text: str) -> None:
    safe = safe_line(text)
    seen = re.sub("[\u200c-\u200f\u00ad\u2060]", "", text)
    marks = re.findall("x{5,}", "".join("x" if unicodedata.category(each)[0] == "M" else " " for each in seen))
    assert len(safe) == len(text) - sum(len(run) - 4 for run in marks)
    assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in safe)
    assert len(safe.splitlines()) <= 1


@spec("CNT-10")
@pytest.mark.parametrize(
    "harm", ["\x1b[2J", "\r", "\x07", "\x9b31m", "\u202e", "\u2066", "\u2028", "\ufeff", "\u061c", "\ud800"]
)
def test_what_steers_a_terminal_or_turns_text_around_is_replaced(harm: str) -> None:
    assert harm[0] not in safe_line(f"a{harm}b")
    assert harm[0] not in safe_text(f"a{harm}b", "  ")


@pytest.mark.parametrize(
    "text", ["Grüße", "שלום", "می‌خواهم", "👩‍👩‍👧", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "❤️", "日本語", "क्षत्रिय", "ឯកឧត្ដម", "בְּרֵאשִׁית"]
)
def test_languages_and_emoji_stay_as_they_are(text: str) -> None:
    assert safe_line(text) == text


def test_marks_piled_up_on_a_letter_cover_nothing_around_it() -> None:
    assert safe_line("Z" + "\u0301" * 60 + "oe\u0308") == "Z" + "\u0301" * 4 + "oe\u0308"
    assert safe_line("Z" + "\u0301\u200d" * 60).count("\u0301") == 4
    assert safe_text("a\n" + "\u0489" * 60 + "b", "  ") == "a\n  " + "\u0489" * 4 + "b"


@spec("CNT-10")
def test_a_text_of_several_lines_cannot_pass_for_several_messages() -> None:
    assert safe_text("one\ntwo\r\nthree", "    ") == "one\n    two\n    three"


@given(st.text(), st.text())
def test_json_lines_are_one_safe_line_and_read_back_the_same(name: str, text: str) -> None:
    line = json_line({"from": name, "text": text})
    assert not any(is_harmful(character) for character in line)
    assert json.loads(line) == {"from": name, "text": text}


def test_colours_and_hints_are_for_terminals_only() -> None:
    pipe = Terminal(io.StringIO(), io.StringIO(), io.StringIO())
    assert pipe.bold("x") == pipe.dim("x") == pipe.colour_of("x") == "x"
    pipe.hint("never seen")
    with pipe.progress("never seen"):
        pass
    assert pipe.err.getvalue() == ""  # type: ignore[attr-defined]
    assert not pipe.can_ask


def test_a_terminal_gets_colours_unless_it_asks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Terminal(Screen(), Screen(), Screen()).bold("x") == "\x1b[1mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert Terminal(Screen(), Screen(), Screen()).bold("x") == "x"


def test_progress_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    with Terminal(Screen(), screen, Screen()).progress("working"):
        assert "working" in screen.getvalue()
    assert screen.getvalue().endswith("\r\x1b[K")


def test_json_for_a_terminal_escapes_the_one_control_character_that_is_neither_low_nor_beyond_ascii() -> None:
    assert json_line({"text": "a\x7fb"}) == '{"text":"a\\u007fb"}'


def test_a_qr_code_is_a_square_with_a_quiet_border() -> None:
    lines = qr_code("https://chat.example/c#" + "A" * 130).splitlines()
    plain = [line.removeprefix("\x1b[30;107m").removesuffix("\x1b[0m") for line in lines]
    assert len({len(line) for line in plain}) == 1
    assert set("".join(plain)) <= set(" ▀▄█")
    assert plain[0].strip() == "" and plain[-1].strip() == ""
    assert all(line.startswith("  ") and line.endswith("  ") for line in plain)
    assert len(plain) * 2 - len(plain[0]) in (0, 1)
