"""Which lines of a target's modules its inputs reach, and which inputs are enough: counted without a fuzzer.

It counts lines inside functions only; what runs at import says nothing about an input.
"""

import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Set
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

from tests.fuzz.table import TARGETS

SOURCE: Final = Path(__file__).resolve().parents[2] / "src" / "taube"


def report(name: str, inputs: Iterable[bytes]) -> str:
    """One line for each module of the target: lines reached, lines there are."""
    reached = lines_reached(name, inputs)
    parts = []
    for file in TARGETS[name].files:
        lines = lines_of(file)
        parts.append(f"{file.partition('#')[0]} {100 * len(reached[file] & lines) // max(1, len(lines))} %")
    return f"{name}: " + ", ".join(parts)


def missed(name: str, inputs: Iterable[bytes]) -> dict[str, list[int]]:
    """The lines of each module that no input reaches."""
    reached = lines_reached(name, inputs)
    return {file: sorted(lines_of(file) - reached[file]) for file in TARGETS[name].files}


def lines_reached(name: str, inputs: Iterable[bytes]) -> dict[str, set[int]]:
    """Play *inputs*; the lines that ran in each module."""
    reached: dict[str, set[int]] = {file: set() for file in TARGETS[name].files}
    for data in inputs:
        for file, line in steps(name, data)[1]:
            reached[file].add(line)
    return reached


Steps = Counter[tuple[str, int]]


def steps(name: str, data: bytes) -> tuple[Set[str], Steps]:
    """Play one input: what came of it, and how often each line of the target's modules ran."""
    files = {str(SOURCE / file.partition("#")[0]): file for file in TARGETS[name].files}
    counted: Steps = Counter()

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        file = files.get(frame.f_code.co_filename)
        if file is None:
            return None

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            counted[file, frame.f_lineno] += 1
            return line

        return line(frame, event, argument)

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        return TARGETS[name].play(data), counted
    finally:
        sys.settrace(before)


def fewest(name: str, inputs: Iterable[bytes], given: Iterable[bytes]) -> list[bytes]:
    """Of *inputs*, short ones first, those that add to what *given* and the ones before them reach.

    What counts: each outcome, and each line with how often it ran, by powers of two up to 8.
    """
    seen: set[Hashable] = set()
    for data in given:
        seen |= _features(name, data)
    chosen: list[bytes] = []
    for data in sorted(inputs, key=lambda data: (len(data), data)):
        new = _features(name, data) - seen
        if new:
            seen |= new
            chosen.append(data)
    return chosen


def _features(name: str, data: bytes) -> set[Hashable]:
    outcomes, counted = steps(name, data)
    return {*outcomes, *((where, min(often, 8).bit_length()) for where, often in counted.items())}


def lines_of(file: str) -> set[int]:
    """The lines of code inside the functions of a module, or only of the functions and classes named behind `#`."""
    name, _, named = file.partition("#")
    only = set(named.split(",")) if named else None
    path = SOURCE / name
    found: set[int] = set()

    def inside(code: CodeType, counts: bool) -> None:
        is_function = bool(code.co_flags & 0x2)  # CO_NEWLOCALS: neither a module nor the body of a class
        counts = counts or code.co_name in (only or ())
        if is_function and counts:
            found.update(line for _, _, line in code.co_lines() if line is not None and line != code.co_firstlineno)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                inside(constant, counts)

    inside(compile(path.read_text(), str(path), "exec"), only is None)
    return found
