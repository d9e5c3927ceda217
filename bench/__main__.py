"""`python -m bench`: prepare accounts, run the scenarios, write results.json and README.md. `make bench` calls it.

    python -m bench [--quick] [--runs N] [--only SCENARIO,…] [--clients N] [--report | --add]

Ctrl-C ends it at once; the servers that it started end with it. Everything it needs lies in a temporary folder.
"""

import argparse
import gc
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from bench import app, clientside, machine, people, report, scenarios
from bench.scenarios import Place
from bench.served import Served, kill_all
from taube.testing import make_certificate

Scenario = Callable[[Place], Awaitable[dict[str, Any]]]

SCENARIOS: dict[str, Scenario] = {
    "empty": scenarios.empty,
    "online": scenarios.online,
    "online_1000": scenarios.online_1000,
    "shapes": scenarios.shapes,
    "fanout": scenarios.fanout,
    "offline": scenarios.offline,
    "logins": scenarios.logins,
    "idle": scenarios.idle,
    "storm": scenarios.storm,
    "flooded": scenarios.flooded,
    "core": clientside.core,
    "send": clientside.send,
    "app": app.app,
}

NOT_QUICK = ("shapes",)
ALONE = {"empty", "core", "send", "app"}
"""These need no prepared accounts."""


def main() -> int:
    asked = argparse.ArgumentParser(prog="python -m bench")
    asked.add_argument("--quick", action="store_true", default=bool(os.environ.get("QUICK")))
    asked.add_argument("--runs", type=int)
    asked.add_argument("--only", default="")
    asked.add_argument("--clients", type=int)
    asked.add_argument("--report", action="store_true", help="write the report after a partial or quick run too")
    asked.add_argument("--add", action="store_true", help="put what was measured among the results that are there")
    options = asked.parse_args()
    machine.pin(machine.LOAD_CORE)
    machine.raise_descriptors()
    logging.disable()  # the transports say each time that the server has ended a connection
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="taube-bench-"))
    try:
        return run(options, folder)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    finally:
        kill_all()
        shutil.rmtree(folder, ignore_errors=True)


def run(options: argparse.Namespace, folder: Path) -> int:
    names = options.only.split(",") if options.only else [name for name in SCENARIOS if name not in NOT_QUICK]
    if not options.quick and not options.only:
        names = list(SCENARIOS)
    if "app" in names and (why := app.missing()):
        say(f"the phone app is left out: {why}")
        names.remove("app")
    runs = options.runs or (1 if options.quick else 5)
    clients = options.clients or (1600 if options.quick else 10_000)
    files = make_certificate(folder, days=7)
    place = Place(folder, files, quick=options.quick)
    if set(names) - ALONE:
        began = time.monotonic()
        say(f"accounts with {clients} devices …")
        with Served(folder / "prepared", files) as served:
            place.devices = uvloop.run(people.register(served, clients, 320))
        say(f"  {time.monotonic() - began:.1f} s")
    found: report.Found = {}
    failed: list[str] = []
    loads, stolen = [machine.load()], machine.stolen_s()
    for number in range(runs):  # all scenarios in turn, so that a slow minute of the machine meets one run of each
        for name in names:
            began = time.monotonic()
            gc.collect()
            try:
                result = uvloop.run(SCENARIOS[name](place))
            except (OSError, RuntimeError, TimeoutError) as error:
                failed.append(f"{name} {number + 1}: {type(error).__name__}: {error}")
                say(f"FAILED {failed[-1]}")
                kill_all()
                continue
            found.setdefault(name, []).append(result)
            loads.append(machine.load())
            say(f"{name} {number + 1}/{runs}, {time.monotonic() - began:.1f} s: {short(result)}")
    result = report.results(found, quick=options.quick, loads=loads, stolen_s=machine.stolen_s() - stolen)
    result["failed"] = failed
    for each in result["figures"]:
        bar = "no bar" if each["bar"] is None else f"bar {each['bar']:g}"
        say(f"{each['id']:15} {each['value']:10.4g} {each['unit']:6} {bar}, runs {each['runs']}")
    say(f"checks {result['checks']}, load {result['load_average']}, stolen {result['stolen_s']} s")
    if why := report.broken(result):
        say(why)
        return 1
    if options.add:
        report.add(result)
    elif options.report or not (options.only or options.quick):
        report.write(result)
    return 0


def say(line: str) -> None:
    print(line, flush=True)


def short(result: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in result.items() if isinstance(value, int | float))


if __name__ == "__main__":
    sys.exit(main())
