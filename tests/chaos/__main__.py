"""Chaos by hand: `python -m tests.chaos [--seed N] [--minutes M] [--faults kill_server,cut] [--quick]`.

Runs rounds of a few minutes, each with a seed of its own, until the time is over; prints what was broken, and the one
command that replays it. Ends with exit code 1 then. Everything runs on loopback, in a temporary folder, which is kept
when something was found.
"""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.world import LONG, QUICK, Size, World

ROUND_S = 300.0


async def one_round(seed: int, seconds: float, size: Size, only: tuple[str, ...], verbose: bool) -> str:
    """Run with one seed; what was broken, or an empty text."""
    folder = Path(tempfile.mkdtemp(prefix="taube-chaos-"))
    trouble = ""
    try:
        async with World(folder, seed, size, print if verbose else lambda line: None) as world:
            await world.run(seconds, only)
            findings = await world.judge()
            print(f"seed {seed}: {world.faults} faults in {seconds:.0f} s: {findings}", flush=True)
            print("   " + ", ".join(f"{name} {count}" for name, count in sorted(world.counts.items())), flush=True)
            trouble = str(findings) if findings.broken else ""
    except (AssertionError, OSError) as error:
        trouble = f"{type(error).__name__}: {error}"
    if trouble:
        print(f"seed {seed} BROKEN: {trouble}\n   what is left of it: {folder}", flush=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return trouble


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one round")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--faults", default="", help="only these, separated by commas")
    parser.add_argument("--quick", action="store_true", help="the small size of the short test")
    parser.add_argument("--verbose", action="store_true", help="say each fault")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything it started ends with it
    size = QUICK if options.quick else LONG
    only = tuple(name for name in options.faults.split(",") if name)
    end = time.monotonic() + options.minutes * 60
    broken = 0
    while (left_s := end - time.monotonic()) > 1:
        seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
        seconds = min(left_s, ROUND_S)
        if asyncio.run(one_round(seed, seconds, size, only, options.verbose)):
            broken += 1
            words = f"--seed {seed} --minutes {seconds / 60:.2f}" + (" --quick" if options.quick else "")
            words += f" --faults {options.faults}" if only else ""
            print(f"   replay: .venv/bin/python -m tests.chaos {words} --verbose", flush=True)
        if options.seed is not None:
            break
    print("chaos: nothing was broken" if not broken else f"chaos: {broken} rounds broke a promise")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
