"""The figures: which scenario gives each, its bar and its aim (DESIGN.md §9), and what it means to run a server."""

from collections.abc import Callable
from typing import NamedTuple


class Figure(NamedTuple):
    """One row. *meaning* says with the measured value what it is good for."""

    id: str
    what: str
    scenario: str
    key: str
    unit: str
    bar: float | None
    aim: float | None
    meaning: Callable[[float], str]


def _per_day(us: float) -> str:
    """How many messages one core carries, spread over a day as people write (peak 1.55 times the average)."""
    return f"{86_400 * 1e6 / us / 1.55 / 1e9:.1f} billion"


FIGURES = (
    Figure(
        "online_us", "server CPU per delivered 300-byte message, online pairs, saturated", "online", "value", "µs",
        40, 20,
        lambda v: f"One busy core carries {1e6 / v:,.0f} messages a second between people who are online"
        f" ({_per_day(v)} a day, peaks included). A village needs a thousandth of that.",
    ),
    Figure(
        "online_1000_us", "the same at 1,000 messages a second", "online_1000", "value", "µs", 150, 90,
        lambda v: f"A server for some 50,000 people, at their busiest: {v / 10:.0f} % of one core. Each message comes"
        " alone then, so that nothing can be done for many at once.",
    ),
    Figure(
        "p99_ms", "time from sending to delivery at 1,000 messages a second, 99th percentile", "online_1000", "p99_ms",
        "ms", 15, 5,
        lambda v: f"99 of 100 messages are on their way to the other phone within {v:.1f} ms; people feel the network.",
    ),
    Figure(
        "store_us", "server CPU to store a message for a device that is away, fsynced", "offline", "store_us", "µs",
        50, 25,
        lambda v: "Phones sleep most of the time: most messages go this way. Nothing is answered *kept* before it is"
        f" on the disk, and one core still takes {1e6 / v:,.0f} a second.",
    ),
    Figure(
        "fetch_us", "server CPU to hand it over later and forget it", "offline", "fetch_us", "µs", 50, 25,
        lambda v: f"A phone that was off for a week and has 2,000 messages costs {v * 2:.0f} ms.",
    ),
    Figure(
        "fanout_us", "server CPU for each device reached by one body to 256 online devices", "fanout", "value", "µs",
        15, 8,
        lambda v: f"A message to a group of 256 takes {v * 256 / 1000:.1f} ms of one core.",
    ),
    Figure(
        "idle_kb", "memory of one idle connection that is logged in, TLS", "idle", "value", "KB", 45, 20,
        lambda v: f"10,000 phones connected at once need {v * 10_000 / 1024:.0f} MB; 1 GB holds"
        f" {1024 * 1024 / v:,.0f}. (The kernel keeps some more for each socket.)",
    ),
    Figure(
        "login_ms", "server CPU for a connection with TLS handshake and login", "logins", "value", "ms", 1.2, 0.6,
        lambda v: f"One core would let {1000 / v:,.0f} phones a second in, such as after a restart.",
    ),
    Figure(
        "storm_s", "kill -9 with {clients:,} clients: until the last is back", "storm", "value", "s", 20, None,
        lambda v: f"After a crash everybody is back within {v:.1f} s, the start of the server included.",
    ),
    Figure(
        "flood_p99_ms", "time from sending to delivery while one core floods the server, 99th percentile", "flooded",
        "value", "ms", 250, None,
        lambda v: "TLS handshakes, silent connections and junk frames, each as fast as one core can offer them and not"
        f" held up by any limit: people who are connected wait {v:.0f} ms at most, 99 times of 100.",
    ),
    Figure(
        "disk_bytes", "bytes on disk for a stored message beyond its body", "offline", "disk_bytes", "bytes", 150, 60,
        lambda v: f"A million waiting messages of 300 bytes take {(v + 300) / 1.048576:.0f} MB.",
    ),
    Figure(
        "empty_mb", "memory of an empty server", "empty", "empty_mb", "MB", 90, 60,
        lambda v: "It fits beside other things on the smallest machine that one can rent.",
    ),
    Figure(
        "start_s", "start of an empty server until it accepts", "empty", "start_s", "s", 2, 1,
        lambda v: "An update is a pause that a phone bridges without anybody noticing.",
    ),
    Figure(
        "protect_ms", "core: protect one message, chat of two, hybrid suite", "core", "protect_ms", "ms", 0.5, 0.2,
        lambda v: "The phone's or the bot's work, not the server's: a bot on one core could write"
        f" {1000 / v:,.0f} messages a second.",
    ),
    Figure(
        "unprotect_ms", "core: unprotect one message, chat of two, hybrid suite", "core", "unprotect_ms", "ms",
        0.5, 0.2,
        lambda v: f"Reading 1,000 messages that waited takes {v:.1f} s of decryption in Python.",
    ),
    Figure(
        "client_send_s", "`taube send` from start to exit, warm, kept", "send", "client_send_s", "s", 0.6, 0.3,
        lambda v: "A script that reports something by message is not slowed down by it.",
    ),
    Figure(
        "app_kb", "phone app, first load: JavaScript and CSS, gzip", "app", "app_kb", "KB", 200, 120,
        lambda v: f"On a slow network of 1.6 Mbit a second that takes {v * 8 / 1600:.1f} s; from then on the app starts"
        " without a network.",
    ),
    Figure(
        "app_core_kb", "phone app, first load: the cryptographic core, gzip", "app", "core_kb", "KB", 550, 350,
        lambda v: f"Comes beside it, in {v * 8 / 1600:.1f} s on the same network, while a person reads the invitation.",
    ),
    Figure(
        "app_open_ms", "phone app, page slowed down four times: from the tap until a chat of 10,000 messages is seen",
        "app", "open_ms", "ms", 300, 150,
        lambda v: f"A cheap phone shows a chat {v / 1000:.1f} s after the tap, read and decrypted from what it keeps;"
        " it makes no difference how long the chat is.",
    ),
    Figure(
        "app_sent_ms", "the same: from the tap on Send until the message is seen", "app", "sent_ms", "ms", 100, 50,
        lambda v: f"What one writes stands in the chat after {v / 1000:.2f} s, with or without a network.",
    ),
    Figure(
        "app_frame_ms", "the same: time from one frame to the next in a quick swipe, 95th percentile", "app",
        "frame_ms", "ms", None, None,
        lambda v: "A usual screen shows a frame every 16.7 ms; a person sees a jerk where two or more are left out.",
    ),
)  # fmt: skip

OTHERS = (
    ("mosquitto 2.0, QoS 1 (C)", 28, 90, "20,000 by default, 39 with autosave", 14.6, 0.45),
    ("NATS JetStream 2.9 (Go)", 69, 423, "0", 32, 0.41),
    ("ejabberd 23.01", 154, 357, "19,189 (Mnesia), 0 (SQLite)", 77, 2.80),
    ("Prosody 0.12", 334, 778, "0", 59, 6.36),
    ("Synapse 1.163", 15_461, 23_875, "0", 105, 245),
)
"""Measured before, on the same kind of machine, over TLS: µs saturated and at 1,000 a second, lost of 20,000 that were
acknowledged after kill -9, KB per idle connection, ms per login."""
