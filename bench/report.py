"""Writes results.json, the plots and README.md from what the runs found; NOTES.md, written by people, is linked.

`python -m bench.report` writes plots and README.md again from the results.json that is there; `make docs` does it.
"""

import json
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine, plots
from bench.figures import FIGURES, OTHERS, Figure

HERE = Path(__file__).resolve().parent
Found = dict[str, list[dict[str, Any]]]


def figure(each: Figure, runs: list[dict[str, Any]], command: str) -> dict[str, Any]:
    """One row of results.json: the median of the runs, and every run."""
    values = [run[each.key] for run in runs]
    return {
        "id": each.id,
        "what": each.what.format(clients=runs[0].get("clients", 0)),
        "value": round(statistics.median(values), 4),
        "unit": each.unit,
        "bar": each.bar,
        "aim": each.aim,
        "runs": [round(value, 4) for value in values],
        "command": f"{command} --only {each.scenario}",
    }


def results(found: Found, *, quick: bool, loads: list[float], stolen_s: float) -> dict[str, Any]:
    """Everything that results.json holds."""
    command = "python -m bench" + (" --quick" if quick else "")
    said = " ".join(sys.argv[1:])
    first = "chrt -r 10 " if machine.is_real_time() else ""
    return {
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": f"{first}python -m bench {said}" if said or first else "make bench",
        "real_time_priority": machine.is_real_time(),
        "quick": quick,
        "machine": machine.about(),
        "load_average": {"median": round(statistics.median(loads), 2), "highest": round(max(loads), 2)},
        "stolen_s": round(stolen_s, 2),
        "figures": [figure(each, found[each.scenario], command) for each in FIGURES if each.scenario in found],
        "checks": checks(found),
        "details": {name: [_rounded(run) for run in runs] for name, runs in found.items()},
    }


ZERO = {
    "refused": "answers other than kept",
    "missing": "messages missing",
    "lost": "messages lost that were kept",
    "twice": "messages told again after their acknowledgement",
    "hintless": "clients turned away without a hint",
    "after_acknowledgement": "messages shown again after they were acknowledged",
}
"""What has to be zero for the figures to mean what they say."""
ITS_RATE = ("logins", "storm")
"""Scenarios whose rate is the generator's: a client's half of a handshake costs more than the server's."""


def checks(found: Found) -> dict[str, float]:
    """Sums of what has to be zero, as far as it was measured; of how many; and how busy the generator was at most."""
    runs = [run for each in found.values() for run in each]
    names = ("kept", "told_again", *ZERO)
    sums: dict[str, float] = {
        name: sum(run.get(name, 0) for run in runs) for name in names if any(name in run for run in runs)
    }
    busy = ("generator_busy", "store_generator_busy", "fetch_generator_busy")
    servers = [run for name, each in found.items() if name not in ITS_RATE for run in each]
    for name, several in (("generator_busy_highest", servers), ("generator_busy_highest_its_rate", runs)):
        sums[name] = round(max((run.get(key, 0.0) for run in several for key in busy), default=0.0), 3)
    return sums


def broken(result: dict[str, Any]) -> str:
    """Why these results may not be written down, in one sentence; empty if they may."""
    found = [f"{result['checks'][name]:,.0f} {what}" for name, what in ZERO.items() if result["checks"].get(name)]
    if result["failed"]:
        found.append(f"{len(result['failed'])} runs that failed ({result['failed'][0]})")
    return f"Nothing is written down, because there were {', '.join(found)}." if found else ""


def _rounded(run: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in run.items()}


def write(result: dict[str, Any]) -> None:
    """results.json, plots/*.svg and README.md."""
    (HERE / "results.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    folder = HERE / "plots"
    folder.mkdir(exist_ok=True)
    by_id = {each["id"]: each for each in result["figures"]}
    rows = [
        (name, each["value"], each["unit"], each["bar"], each["aim"])
        for name, each in by_id.items()
        if each["bar"] is not None
    ]
    (folder / "bars.svg").write_text(
        plots.against_bars(rows, "Each figure as a part of its bar (dotted: the aim; green: aim reached)")
    )
    for name, column, unit, title in (
        ("online_us", 1, "µs", "Server CPU per delivered message, saturated"),
        ("online_1000_us", 2, "µs", "Server CPU per delivered message at 1,000 a second"),
        ("idle_kb", 4, "KB", "Memory per idle TLS connection"),
        ("login_ms", 5, "ms", "Server CPU per login"),
    ):
        if name in by_id:
            compared = [("Taube", by_id[name]["value"])] + [(other[0], float(other[column])) for other in OTHERS]
            (folder / f"{name}.svg").write_text(plots.logarithmic(compared, unit, title))
    curves = [run["percentiles_ms"] for run in result["details"].get("online_1000", [])]
    if curves:
        curve = [statistics.median(each) for each in zip(*curves, strict=True)]
        (folder / "latency.svg").write_text(
            plots.percentiles(curve, 15, "Time until delivered, 1,000 messages a second, TLS")
        )
    (HERE / "README.md").write_text(readme(result))


def add(result: dict[str, Any]) -> None:
    """Put the figures and details of *result* among those that are there, in place of the same ones from before."""
    there = json.loads((HERE / "results.json").read_text())
    figures = {each["id"]: each for each in there["figures"] + result["figures"]}
    there["figures"] = [figures[each.id] for each in FIGURES if each.id in figures]
    there["details"] |= result["details"]
    there["checks"] = checks(there["details"])
    when = {name: result[name] for name in ("measured_at", "command", "quick", "load_average", "stolen_s")}
    there["later"] = there.get("later", {}) | dict.fromkeys(result["details"], when)
    write(there)


def write_again() -> None:
    """The same from the results as they are."""
    write(json.loads((HERE / "results.json").read_text()))


def spread(each: dict[str, Any]) -> str:
    low, high = min(each["runs"]), max(each["runs"])
    return f"{low:.3g} – {high:.3g}" if len(each["runs"]) > 1 else "one run"


def readme(result: dict[str, Any]) -> str:
    by_id = {each["id"]: each for each in result["figures"]}
    about = result["machine"]
    lines = [
        "# What a server costs, and the app a phone",
        "",
        "Generated by `python -m bench`; do not edit. Where the time goes and what was tried: [NOTES.md](NOTES.md).",
        "",
        f"Measured {result['measured_at']} by `{result['command']}` on {about['cores']} cores ({about['cpu']}),"
        f" {about['memory_gb']} GB, Linux {about['kernel']}, Python {about['python']}, {about['openssl']}.",
        f"Load average while measuring: median {result['load_average']['median']}, highest"
        f" {result['load_average']['highest']} (two busy processes are ours); stolen by the hypervisor:"
        f" {result['stolen_s']} s.",
        *(
            [
                "",
                "Server and generator ran with real-time priority, because the machine was busy with other work: that"
                " work could not delay them, but it emptied the processor's caches between messages, so that a quiet"
                " machine shows lower figures, most of all at 1,000 messages a second.",
            ]
            if result["real_time_priority"]
            else []
        ),
        "",
        "![Each figure against its bar](plots/bars.svg)",
        "",
        "| | median | spread | bar | aim | |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for each in result["figures"]:
        value, bar, aim = each["value"], each["bar"], each["aim"]
        shown = "" if aim is None else f"{aim:g}"
        verdict = "" if bar is None else "above the bar" if value > bar else "aim" if aim and value <= aim else "bar"
        lines.append(
            f"| {each['what']} | {value:.3g} {each['unit']} | {spread(each)} | {'' if bar is None else f'{bar:g}'} |"
            f" {shown} | {verdict} |"
        )
    lines += later(result)
    lines += ["", *checked(checks(result["details"]))]
    lines += [
        "",
        "## What it means",
        "",
    ]
    meanings = {each.id: each.meaning for each in FIGURES}
    lines += [
        f"- **{each['what']}: {each['value']:.3g} {each['unit']}.** {meanings[name](each['value'])}"
        for name, each in by_id.items()
    ]
    if "online_1000" in result["details"]:
        lines += ["", "![Time until delivered](plots/latency.svg)"]
    if "shapes" in result["details"]:
        lines += ["", *shapes(result["details"]["shapes"], by_id)]
    lines += ["", "## Beside others", ""]
    lines += compared(by_id)
    lines += ["", "## How it is measured", "", METHOD.strip(), ""]
    return "\n".join(lines)


def checked(check: dict[str, float]) -> list[str]:
    """What was checked, and of which scenarios; what an older run did not measure is not mentioned."""
    storm = [
        f"of {check.get('kept', 0):,.0f} messages answered *kept* in some 1.5 s of load before each kill -9,"
        f" lost: {check.get('lost', 0):.0f}",
        *(
            [
                f"told again although long acknowledged: {check['twice']:.0f} (and {check['told_again']:,.0f} whose"
                " acknowledgement may have died with the server, which receivers drop)"
            ]
            if "twice" in check
            else []
        ),
        f"clients turned away without being told when to return: {check.get('hintless', 0):.0f}",
    ]
    return [
        f"Checked in every run under load: answers other than *kept*: {check.get('refused', 0):.0f}; messages missing:"
        f" {check.get('missing', 0):.0f}. In the storm: {'; '.join(storm)}. After fetching: shown again after they were"
        f" acknowledged: {check.get('after_acknowledgement', 0):.0f}. Nothing is written down when one of these is not"
        " zero.",
        "",
        f"The load generator was at most {check['generator_busy_highest'] * 100:.0f} % busy, so that it was not what"
        f" limited the server, except for logins and the storm (up to"
        f" {check['generator_busy_highest_its_rate'] * 100:.0f} %): their rate is the generator's. CPU per login is the"
        " server's own account.",
    ]


def later(result: dict[str, Any]) -> list[str]:
    """Which figures were added after the others, and how those were taken."""
    lines = []
    for name, when in result.get("later", {}).items():
        figures = ", ".join(f"`{each.id}`" for each in FIGURES if each.scenario == name)
        lines += [
            "",
            f"{figures}: measured later, {when['measured_at']} by `{when['command']}`; load average: median"
            f" {when['load_average']['median']}, highest {when['load_average']['highest']}; stolen by the hypervisor:"
            f" {when['stolen_s']} s.",
        ]
    return lines


def shapes(runs: list[dict[str, float]], by_id: dict[str, dict[str, Any]]) -> list[str]:
    """How the saturated figure depends on how many sends are under way on one connection."""
    lines = [
        "How much of the saturated figure is owed to work done for many messages at once (256 sends are under way in"
        " each row):",
        "",
        "| pairs x sends under way in each | µs of CPU per message |",
        "|---|--:|",
    ]
    rows = {name: statistics.median(run[name] for run in runs) for name in runs[0] if " x " in name}
    rows["32 x 8 (the figure above)"] = by_id["online_us"]["value"]
    return lines + [f"| {name} | {value:.1f} |" for name, value in sorted(rows.items(), key=lambda row: -row[1])]


def compared(by_id: dict[str, dict[str, Any]]) -> list[str]:
    """The table of others, and ourselves in it where the figures are there."""

    def ours(name: str) -> str:
        return f"{by_id[name]['value']:.3g}" if name in by_id else "–"

    lines = [
        "The figures of the others were taken on the same kind of machine, over TLS, each message acknowledged; they"
        " are not taken anew by `make bench`. They do other things besides, and none of them is end-to-end encrypted by"
        " itself; the comparison says what the same work costs here, not who is better. How much was under way at once"
        " in the first column is not known of them; ours has eight sends under way on each of 32 connections, and"
        " depends on it (`python -m bench --only shapes`: about 42 µs with one on each of 256).",
        "",
        "| | µs of CPU per message, saturated | at 1,000 a second | lost of 20,000 acknowledged after kill -9"
        " | KB per idle connection | ms of CPU per login |",
        "|---|--:|--:|---|--:|--:|",
        f"| **Taube** | **{ours('online_us')}** | **{ours('online_1000_us')}** | 0 (see the storm above)"
        f" | **{ours('idle_kb')}** | **{ours('login_ms')}** |",
    ]
    lines += [f"| {name} | {a:,} | {b:,} | {lost} | {kb:g} | {ms:g} |" for name, a, b, lost, kb, ms in OTHERS]
    lines += [
        "",
        *(
            f"![{name}](plots/{name}.svg)"
            for name in ("online_us", "online_1000_us", "idle_kb", "login_ms")
            if name in by_id
        ),
    ]
    return lines


METHOD = """
- `make bench` (five runs of each scenario, medians; under 30 minutes) or `QUICK=1 make bench` (one short run each,
  about two minutes, not written down). The scenarios of the server start their own `taube serve` with default settings
  over a copy of the same prepared folder, *start* and *memory of an empty server*, `taube send` and the phone app over
  an empty one, the core none. Only loopback is used; every server is stopped by its pid, also after Ctrl-C or when the
  bench itself is killed.
- The server is pinned to one core, the load generator to the other. CPU is what the kernel's scheduler gave all threads
  of the server (`/proc/PID/task/*/schedstat`), user and system time together; memory is the proportional set size
  (`smaps_rollup`), so that what the kernel keeps for sockets is not in it.
- The protocol is the real one, over TLS 1.3 with an ECDSA P-256 certificate. Accounts are registered with an
  invitation, 16 devices each; logins are signed; every send is answered *kept*.
- *Online*: 32 pairs, 8 sends under way in each; every envelope is acknowledged by a frame of its own (four frames a
  message). *At 1,000 a second*: exponential gaps over 100 pairs, the time taken from the write of the frame to the
  arrival of its delivery. *Fan-out*: four sends of one body to 256 devices under way, from 64 connections in turn,
  because a connection may reach 5,000 addresses a second. *Store*: 64 senders to 64 devices that are away, 16 sends
  under way each; *fetch*: the server is restarted, the 64 devices log in and acknowledge cumulatively, what was read
  at once together, as the SDK does. *Storm*: kill -9 under load, the clients try again at once and heed every hint.
  *Flood*: 300 messages a second over 30 pairs, while another process on the generator's core, which gives way to the
  pairs, offers TLS handshakes, then silent connections, then junk frames; the figure is the worst of the three.
- *The phone app* (`web/test/browser/figures.ts`): a real Chromium and a real server; an account, a contact on the
  command line, and 10,000 messages that the app's own store put beside the first real one. The first load is what the
  browser asks for until the invitation can be read, as the build packs it. Times run from the event of a finger to the
  end of the frame that shows what was asked for, the app loaded anew for each opening; the figure is the median of
  seven openings and of fifteen messages, for frames the 95th percentile of a swipe through 20,000 pixels. The page is
  slowed down as DevTools do it (`Emulation.setCPUThrottlingRate`, 4); the engine's worker beside it is not, there is no
  graphics card, and no phone was measured.
- No setting of the server is changed. Its limits by network address do not count loopback; registration is limited for
  everyone to a hundred at once and ten a second, which the preparation waits for.
"""

if __name__ == "__main__":
    write_again()
