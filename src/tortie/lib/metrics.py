"""Metrics, and Prometheus' text format for them.

Whoever has something to count keeps plain numbers, or a `Histogram`; families are put together
only when somebody asks. No registry, no labels to look up where it is hot.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Literal, NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Kind = Literal["counter", "gauge", "histogram", "summary"]
Labels = Mapping[str, str]

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Buckets for what takes from a part of a millisecond to some seconds."""
SIZES = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0)

_NO_LABELS: Labels = {}


class Sample(NamedTuple):
    suffix: str
    """Behind the family's name: empty, `_sum`, `_count` or `_bucket`."""
    labels: Labels
    value: float


class Family(NamedTuple):
    name: str
    kind: Kind
    help: str
    samples: Iterable[Sample]


class Histogram:
    """How often what was how large. Observing takes half a microsecond."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    def family(self, name: str, help_text: str) -> Family:
        return Family(name, "histogram", help_text, self._samples())

    def summary(self, name: str, help_text: str) -> Family:
        """Only sum and count, where others' names promise a summary."""
        samples = (Sample("_sum", _NO_LABELS, self.sum), Sample("_count", _NO_LABELS, self.count))
        return Family(name, "summary", help_text, samples)

    def _samples(self) -> Iterable[Sample]:
        bounds = (*map(_number, self._bounds), "+Inf")
        for bound, count in zip(bounds, accumulate(self._counts), strict=True):
            yield Sample("_bucket", {"le": bound}, count)
        yield Sample("_sum", _NO_LABELS, self.sum)
        yield Sample("_count", _NO_LABELS, self.count)


def counter(name: str, help_text: str, value: float, **labels: str) -> Family:
    return Family(name, "counter", help_text, (Sample("", labels, value),))


def gauge(name: str, help_text: str, value: float, **labels: str) -> Family:
    return Family(name, "gauge", help_text, (Sample("", labels, value),))


def labelled(
    name: str, kind: Kind, help_text: str, label: str, values: Mapping[str, float]
) -> Family:
    """One sample for each value of one label."""
    samples = (Sample("", {label: key}, value) for key, value in values.items())
    return Family(name, kind, help_text, samples)


def exposition(families: Iterable[Family]) -> str:
    """The text that Prometheus reads."""
    lines: list[str] = []
    for family in families:
        lines.append(f"# HELP {family.name} {_escaped_help(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for suffix, labels, value in family.samples:
            text = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
            braces = f"{{{text}}}" if text else ""
            lines.append(f"{family.name}{suffix}{braces} {_number(value)}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return str(int(value)) if abs(value) < 1e15 and value == int(value) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escaped_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
