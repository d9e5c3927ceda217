"""Fuzzing by hand: `python -m tests.fuzz --minutes N [--target NAME]`; `make fuzz` installs what it needs before.

Runs each target in a process of its own, in turns, until the time is over; then says what was executed, how much of
each target's modules was reached, and what broke. An input that breaks something is kept in a temporary folder and
named; the exit code is 1 then. New inputs worth keeping are minimised and go into tests/fuzz/corpus/.

The only module that knows atheris. It works on Linux on x86-64 only; elsewhere the corpus is replayed all the same.
"""

import argparse
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ELSEWHERE: Final = "Fuzzing needs atheris, which there is for Linux on x86-64 with Python 3.11 to 3.13 only."
MISSING: Final = "Fuzzing needs atheris: run it with make fuzz, which installs it."
TURN_S: Final = 60.0
HANG_S: Final = 25
MEMORY_MB: Final = 512
OUTCOMES: Final = 4096


# ---------------------------------------------------------------- one target, in a process of its own


def fuzz(name: str, arguments: list[str]) -> None:
    """Become a fuzzer of the target *name*. Does not return."""
    import atheris  # type: ignore[import-not-found]

    with atheris.instrument_imports(include=["taube", "uvicorn"]):
        from tests.fuzz.table import TARGETS
    counters = [atheris._reserve_counter() for _ in range(OUTCOMES)]
    play = TARGETS[name].play

    def one(data: bytes) -> None:
        for text in play(data):
            atheris._trace_branch(counters[zlib.crc32(text.encode(errors="surrogatepass")) % OUTCOMES])

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


# ---------------------------------------------------------------- all of them


@dataclass
class Work:
    """What is known of one target in this run."""

    name: str
    folder: Path
    seconds: float = 0.0
    executions: int = 0
    counters: int = 0
    features: int = 0
    memory_mb: int = 0
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        each = f"{self.counters} counters, {self.features} features, at most {self.memory_mb} MB"
        return f"{self.name}: {self.executions} executions in {self.seconds:.0f} s, {each}"

    @property
    def inputs(self) -> Path:
        return self.folder / "inputs"


def prepare(name: str, folder: Path) -> Work:
    from tests.fuzz import corpus
    from tests.fuzz.table import TARGETS

    work = Work(name, folder / name)
    work.inputs.mkdir(parents=True)
    _write(work.inputs, corpus.kept(name) + corpus.seeds(name))
    words = ['"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in TARGETS[name].words]
    (work.folder / "words").write_text("".join(words))
    return work


def _write(folder: Path, inputs: list[bytes]) -> None:
    for data in inputs:
        (folder / f"{zlib.crc32(data):08x}-{len(data)}").write_bytes(data)


def turn(work: Work, seconds: float, before: list[str]) -> None:
    """Fuzz one target for so long."""
    from tests.fuzz.table import TARGETS

    output = _child(
        work,
        before,
        f"-max_total_time={seconds:.0f}",
        f"-max_len={TARGETS[work.name].most_bytes}",
        f"-dict={work.folder / 'words'}",
        f"-artifact_prefix={work.folder}/broken-",
        "-print_final_stats=1",
        str(work.inputs),
    )
    executions = int(_last(r"number_of_executed_units: (\d+)", output) or 0)
    a_second = int(_last(r"average_exec_per_sec: +(\d+)", output) or 0)
    work.executions += executions
    work.seconds += float(_last(r"Done \d+ runs in (\d+) second", output) or executions / max(a_second, 1))
    work.counters = int(_last(r" cov: (\d+)", output) or work.counters)
    work.features = int(_last(r" ft: (\d+)", output) or work.features)
    work.memory_mb = max(work.memory_mb, int(_last(r"peak_rss_mb:\s+(\d+)", output) or 0))
    if "Test unit written to" in output:
        found = _last(r"Test unit written to (\S+)", output)
        reason = _last(r"=== Uncaught Python exception: ===\n(.*)", output)
        work.broken.append(f"{found}: {reason or _last(r'ERROR: libFuzzer: (.*)', output)}")
        (work.folder / f"log-{len(work.broken)}").write_text(output)


def _child(work: Work, before: list[str], *arguments: str) -> str:
    command = [*before, sys.executable, "-m", "tests.fuzz", "--one", work.name, "--"]
    options = [f"-timeout={HANG_S}", f"-rss_limit_mb={MEMORY_MB}", *arguments]
    done = subprocess.run(command + options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.stdout.decode(errors="replace")


def _last(pattern: str, text: str) -> str | None:
    found = re.findall(pattern, text)
    return found[-1] if found else None


def minimise(work: Work) -> None:
    """Keep the inputs that add something to the seeds."""
    from tests.fuzz import corpus, reach

    found = {path.read_bytes() for path in work.inputs.iterdir()}
    seeds = corpus.seeds(work.name)
    if left_out := corpus.keep(work.name, reach.fewest(work.name, found - set(seeds), seeds)):
        print(f"{work.name}: {left_out} inputs were not kept, the corpus is full")


def main(options: argparse.Namespace) -> int:
    from tests.fuzz import corpus, reach
    from tests.fuzz.table import TARGETS

    folder = Path(tempfile.mkdtemp(prefix="taube-fuzz-run-"))
    works = [prepare(name, folder) for name in ([options.target] if options.target else TARGETS)]
    shares = sum(TARGETS[work.name].share for work in works)
    before = options.through.split()
    left = {work.name: options.minutes * 60 * TARGETS[work.name].share / shares for work in works}
    while any(seconds >= 1 for seconds in left.values()):
        for work in works:
            if left[work.name] >= 1 and len(work.broken) < 3:
                seconds = min(TURN_S, left[work.name])
                turn(work, seconds, before)
                print(work, flush=True)
                left[work.name] -= seconds
            else:
                left[work.name] = 0
    for work in works:
        if not work.broken:
            minimise(work)
        print(reach.report(work.name, corpus.kept(work.name) + corpus.seeds(work.name)), flush=True)
    total, seconds = sum(work.executions for work in works), sum(work.seconds for work in works)
    broken = [line for work in works for line in work.broken]
    print(
        f"fuzz: {total} executions in {seconds / 60:.0f} minutes; "
        + (f"{len(broken)} broke" if broken else "nothing broke")
    )
    for line in broken:
        print(f"   {line}")
    if not broken:
        shutil.rmtree(folder)
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="altogether, divided over the targets")
    parser.add_argument("--target", help="only this one")
    parser.add_argument("--through", default="", help="a command that runs each turn, such as nice")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    if importlib.util.find_spec("atheris") is None:
        is_there = platform.system() == "Linux" and platform.machine() == "x86_64" and sys.version_info < (3, 14)
        sys.exit(MISSING if is_there else ELSEWHERE)
    chosen = _options()
    if chosen.one:
        fuzz(chosen.one, chosen.rest)
    sys.exit(main(chosen))
