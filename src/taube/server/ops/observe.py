"""What an operator may see: the catalogue of metrics, and logs of events of the server, never of people.

Each metric and each field of a log line is named here once, with its unit, its help and the ledger entry that permits
it; a name that is not here is refused. Labels are one `reason` out of a small fixed set. An exception is logged as its
type and the places in the code that it passed, never its text, which may hold what someone sent.

It knows no service. Source: docs/operating.md, "Metrics" and "Logs".
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from taube.server.ledger import OPERATION, Entry


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the catalogue: *kind* is counter, gauge or histogram; *unit* is the last word of the name."""

    name: str
    kind: str
    unit: str
    help: str
    reasons: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    entry: Entry = OPERATION


QUIET_MS: Final = 10_000
"""How long the same kind of bug is only counted after it was logged."""

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
METRICS: Final = (
    Metric("connections", "gauge", "connections", "WebSocket connections open now.", ("anonymous", "device")),
    Metric(
        "connections_refused",
        "counter",
        "connections",
        "Connections turned away before they said anything.",
        ("connections", "source", "descriptors", "handshake", "draining"),
    ),
    Metric(
        "connections_closed",
        "counter",
        "connections",
        "Connections that the server ended.",
        ("idle", "stalled", "buffers"),
    ),
    Metric("commands", "counter", "commands", "Commands received."),
    Metric("refused", "counter", "answers", "Commands refused, by the name of the error."),
    Metric("bugs", "counter", "errors", "Errors that nobody foresaw; each is logged, and each is worth a report."),
    Metric("sockets", "gauge", "connections", "Sockets accepted, whatever has become of them yet."),
    Metric("connections_most", "gauge", "connections", "How many settings and descriptors leave room for."),
    Metric("greeting", "gauge", "connections", "Sockets that have not spoken, or wait for their TLS handshake."),
    Metric("behind_bytes", "gauge", "bytes", "What waits for peers that read too slowly."),
    Metric("frames_bytes", "gauge", "bytes", "Buffers that unfinished frames, or large ones before, have grown."),
    Metric("loop_lag_seconds", "histogram", "seconds", "How late the event loop is.", buckets=_SECONDS),
    Metric("storage_problems", "counter", "errors", "Reads or writes of the store that failed; each is logged."),
    Metric("memory_bytes", "gauge", "bytes", "Memory of the process that is its own or shared (resident set)."),
    Metric("database_bytes", "gauge", "bytes", "Size of the database with its log."),
    Metric("disk_free_bytes", "gauge", "bytes", "Room left on the disk of the data folder."),
    Metric(
        "certificate_expires_seconds", "gauge", "seconds since 1970", "When the certificate in use expires; 0: none."
    ),
    Metric("clock_ahead_seconds", "gauge", "seconds", "How far the machine's clock is ahead of the guarded one."),
    Metric("expiry_paused", "gauge", "state", "1 while nothing expires because the machine's clock jumped, else 0."),
    Metric("strained", "gauge", "state", "1 while the loop is so late that newcomers and best effort are refused."),
    Metric("blobs", "gauge", "blobs", "Blobs and uploads that are kept."),
    Metric("blobs_bytes", "gauge", "bytes", "Their bytes, with what was announced and has not come yet."),
    Metric("blobs_most_bytes", "gauge", "bytes", "How many bytes of blobs the settings have room for."),
    Metric("blob_transfers", "gauge", "transfers", "Uploads and downloads of blobs under way."),
    Metric("blobs_finished", "counter", "blobs", "Uploads that became a blob."),
    Metric("blob_bytes", "counter", "bytes", "Bytes of blobs that came in and went out.", ("in", "out")),
    Metric(
        "blobs_refused",
        "counter",
        "answers",
        "Requests for blobs that were refused or cut off, by the reason.",
        (
            "blob_bad_request",
            "blob_secret_wrong",
            "blob_unknown",
            "blob_conflict",
            "blob_too_large",
            "rate_limited",
            "internal",
            "busy",
            "draining",
            "storage",
            "no_room",
            "slow",
        ),
    ),
    Metric("ready", "gauge", "state", "1 while the server takes new connections, else 0."),
)
"""What the gateway and the life of the process report; what the services and the store report, workers.py names."""

LOG_FIELDS: Final[dict[str, Entry]] = dict.fromkeys(
    (
        "event", "level", "time_ms", "url", "ops", "reason", "kind", "at", "count", "version", "open_connections",
    ),
    OPERATION,
)  # fmt: skip
"""Every field that a log line may have."""


class PrometheusMetrics:
    """The Metrics port over prometheus_client, with a registry of its own."""

    def __init__(self, catalogue: tuple[Metric, ...]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=True)
        self._counters: dict[tuple[str, str], Counter] = {}
        self._gauges: dict[tuple[str, str], Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self._open: dict[str, Counter | Gauge] = {}
        self._readings: list[tuple[str, str, Callable[[], float]]] = []
        self._totals: list[tuple[str, Callable[[], int], int]] = []
        for metric in catalogue:
            self._add(metric)

    def _add(self, metric: Metric) -> None:
        name = f"taube_{metric.name}"
        labels = ["reason"] if metric.reasons or metric.name == "refused" else []
        if metric.kind == "histogram":
            buckets = metric.buckets or _SECONDS
            self._histograms[metric.name] = Histogram(name, metric.help, buckets=buckets, registry=self.registry)
            return
        made: Counter | Gauge = (
            Counter(name, metric.help, labels, registry=self.registry)
            if metric.kind == "counter"
            else Gauge(name, metric.help, labels, registry=self.registry)
        )
        for reason in metric.reasons or ("",):
            child = made.labels(reason) if labels and reason else made
            if isinstance(child, Counter):
                self._counters[metric.name, reason] = child
            else:
                self._gauges[metric.name, reason] = child
        if labels and not metric.reasons:
            self._open[metric.name] = made

    def count(self, name: str, amount: float = 1, reason: str = "") -> None:
        counter = self._counters.get((name, reason))
        if counter is None:
            family = self._open[name]
            assert isinstance(family, Counter)
            counter = self._counters[name, reason] = family.labels(reason)
        counter.inc(amount)

    def gauge(self, name: str, value: float) -> None:
        self._gauges[name, ""].set(value)

    def observe(self, name: str, value: float) -> None:
        self._histograms[name].observe(value)

    def before_scrape(self, name: str, reason: str, reading: Callable[[], float]) -> None:
        """Read a gauge only when someone looks."""
        self._readings.append((name, reason, reading))

    def count_before_scrape(self, name: str, total: Callable[[], int]) -> None:
        """A counter that something hot keeps as a plain number; read only when someone looks."""
        self._totals.append((name, total, 0))

    def text(self) -> bytes:
        """The exposition format of Prometheus."""
        for at, (name, total, before) in enumerate(self._totals):
            now = total()
            self.count(name, now - before)
            self._totals[at] = (name, total, now)
        for name, reason, reading in self._readings:
            self._gauges[name, reason].set(reading())
        return generate_latest(self.registry)


class Log:
    """Structured log: one JSON object per line, of events of the server."""

    def __init__(self, stream: TextIO, wall_ms: Callable[[], int]) -> None:
        self._stream = stream
        self._wall_ms = wall_ms
        self._last: dict[str, tuple[int, int]] = {}

    def event(self, event: str, *, level: str = "info", **fields: str | int | float | list[str]) -> None:
        """Write one line, or lose it where nothing can be written: a log on a full disk must not stop the server.

        Raises KeyError for a field that is not in LOG_FIELDS.
        """
        for name in fields:
            LOG_FIELDS[name]
        line = {"time_ms": self._wall_ms(), "level": level, "event": event, **fields}
        with suppress(OSError):
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()

    def bug(self, error: BaseException) -> None:
        """An error that nobody foresaw: its type and where it passed, at most once in QUIET_MS for each type."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        kind = type(error).__name__
        now = self._wall_ms()
        last, hidden = self._last.get(kind, (-QUIET_MS, 0))
        if 0 <= now - last < QUIET_MS:
            self._last[kind] = (last, hidden + 1)
            return
        self._last[kind] = (now, 0)
        self.event("bug", level="error", kind=kind, at=places(error), count=hidden + 1)


def places(error: BaseException) -> list[str]:
    """The places of the code that *error* passed, innermost last: file, line and function, nothing of its values."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-8:]]


def silence_libraries() -> None:
    """Loggers of libraries may name network addresses: nothing of theirs is written."""
    for name in ("picows", "aiofastnet", "uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False


def standard_error() -> TextIO:
    """Where logs go; nowhere if the caller closed it."""
    return sys.stderr or Path(os.devnull).open("w", encoding="utf-8")
