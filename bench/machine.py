"""What the kernel says: which core a process runs on, the CPU time and memory that it took, and what machine this is.

CPU time is the sum over all threads of a process of the nanoseconds that the scheduler gave them
(`/proc/PID/task/*/schedstat`); what runs in interrupts on behalf of others is not in it. Memory is the proportional set
size (`smaps_rollup`): private pages, and a fair share of the shared ones.
"""

import os
import platform
import resource
import ssl
from importlib import metadata
from pathlib import Path
from typing import Any

SERVER_CORE = 0
LOAD_CORE = 1


def pin(core: int) -> None:
    """Run this process on *core* only, where there is more than one."""
    if len(os.sched_getaffinity(0)) > 1 or (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


def raise_descriptors() -> int:
    """Raise the limit of open files as far as allowed, for this process and those that it starts; gives it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def cpu_ns(pid: int) -> int:
    """Nanoseconds on a core of all threads that the process has now."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except FileNotFoundError:  # a thread that has just ended
            continue
    return total


def user_and_system_ns(pid: int) -> tuple[int, int]:
    """The same from `/proc/PID/stat`, in user and kernel mode; in steps of a tick, 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return int(fields[11]) * tick, int(fields[12]) * tick


def pss_kb(pid: int) -> int:
    """Kilobytes (1,024 bytes) of memory that the process stands for."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise OSError(f"no Pss in smaps_rollup of {pid}")


def stolen_s() -> float:
    """Seconds since boot that the hypervisor gave to others, over all cores."""
    return int(Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")


def is_real_time() -> bool:
    """Whether this process, and what it starts, goes before all ordinary ones (`chrt`)."""
    return os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)


def load() -> float:
    """Processes that wanted to run, averaged over the last minute."""
    return os.getloadavg()[0]


def about() -> dict[str, Any]:
    """The machine and the versions, for the results."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    packages = ("picows", "aiofastnet", "uvloop", "msgspec", "apsw-sqlite3mc", "cryptography", "wasmtime")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(pages * page / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "packages": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
