"""What a benchmark yields, as a table for people and as JSON for machines."""

import json
import platform
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Result(NamedTuple):
    name: str
    value: float
    unit: str
    target: str = ""
    """What it should be, in words; empty where there is none."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank; `values` need not be sorted."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


def latencies(
    name: str, seconds: Sequence[float], target: str = "", target_99: str = ""
) -> list[Result]:
    """p50 and p99 in milliseconds, each with its target."""
    return [
        Result(f"{name}, p50", statistics.median(seconds) * 1000, "ms", target),
        Result(f"{name}, p99", percentile(seconds, 99) * 1000, "ms", target_99),
    ]


def table(results: Sequence[Result]) -> str:
    width = max(len(result.name) for result in results)
    lines = []
    for result in results:
        target = f"   target {result.target}" if result.target else ""
        lines.append(f"{result.name:<{width}}  {result.value:>10.3f} {result.unit:<6}{target}")
    return "\n".join(line.rstrip() for line in lines)


def document(results: Sequence[Result]) -> str:
    return json.dumps(
        {
            "kernel": platform.release(),
            "python": platform.python_version(),
            "results": [result._asdict() for result in results],
        },
        indent=2,
    )
