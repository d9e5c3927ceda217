"""What fuzzing found worth keeping is played again, without a fuzzer: every input is a regression."""

from pathlib import Path

import pytest

from tests.fuzz import corpus, reach
from tests.fuzz.port import outcomes
from tests.fuzz.table import TARGETS
from tests.fuzz.world import Broken


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_that_was_kept_is_decided_without_an_error(name: str) -> None:
    inputs = corpus.seeds(name) + corpus.kept(name)
    assert inputs
    for data in inputs:
        TARGETS[name].play(data)


def test_the_corpus_is_small_and_belongs_to_targets() -> None:
    files = sorted(corpus.FOLDER.glob("*"))
    assert {path.stem for path in files} <= set(TARGETS)
    assert sum(path.stat().st_size for path in files) < corpus.MOST_BYTES


def test_a_corpus_that_is_full_keeps_the_shorter_inputs_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "FOLDER", tmp_path)
    monkeypatch.setattr(corpus, "MOST_BYTES", 30)
    assert corpus.keep("frames", [b"four"]) == 0
    assert corpus.keep("links", [b"a long one", b"x", b"yz"]) == 1
    assert (corpus.kept("frames"), corpus.kept("links")) == ([b"four"], [b"x", b"yz"])


def test_inputs_that_add_nothing_are_left_out() -> None:
    assert reach.fewest("frames", [b"\x90", b"", b"\x90\x90"], [b"\x90"]) == [b""]


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense",
        b"HTTP/1.1 500 Internal Server Error\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x82\x01\x00",
    ],
)
def test_an_answer_that_no_server_should_give_is_noticed(answer: bytes) -> None:
    with pytest.raises(Broken):
        outcomes(answer)
