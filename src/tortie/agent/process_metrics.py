"""What /proc and the interpreter say of this process, and of the links of its namespace."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tortie.lib.metrics import Family, counter, gauge, labelled


def traffic() -> dict[str, tuple[int, int, int, int]]:
    """By link: bytes and packets that came by it, and that went by it."""
    found = {}
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]:
        name, _, numbers = line.partition(":")
        values = numbers.split()
        found[name.strip()] = (int(values[0]), int(values[1]), int(values[8]), int(values[9]))
    return found


def interpreter() -> Iterator[Family]:
    version = sys.version_info
    yield gauge(
        "python_info",
        "The interpreter.",
        1,
        implementation=sys.implementation.name,
        version=f"{version.major}.{version.minor}.{version.micro}",
    )
    values = {str(number): one["collections"] for number, one in enumerate(gc.get_stats())}
    yield labelled(
        "python_gc_collections_total",
        "counter",
        "Searches for garbage, by generation.",
        "generation",
        values,
    )


def process() -> Iterator[Family]:
    """Source: proc(5), stat."""
    _, _, rest = Path("/proc/self/stat").read_text().rpartition(")")
    fields = rest.split()
    ticks = os.sysconf("SC_CLK_TCK")
    cpu_seconds = (int(fields[11]) + int(fields[12])) / ticks
    yield counter("process_cpu_seconds_total", "Processor time, user and system.", cpu_seconds)
    resident_bytes = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    yield gauge("process_resident_memory_bytes", "Memory that is in use.", resident_bytes)
    yield gauge("process_virtual_memory_bytes", "Memory that is mapped.", int(fields[20]))
    yield gauge("process_threads", "Threads.", int(fields[17]))
    started = _boot_seconds() + int(fields[19]) / ticks
    yield gauge("process_start_time_seconds", "When it began, in Unix time.", started)
    descriptors = len(os.listdir("/proc/self/fd"))
    yield gauge("process_open_fds", "Open files and sockets.", descriptors)


def _boot_seconds() -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0
