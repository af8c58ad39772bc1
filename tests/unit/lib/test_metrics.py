"""Prometheus' text format, read back by Prometheus' own parser."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as read

from tortie.lib.metrics import (
    Family,
    Histogram,
    Sample,
    counter,
    exposition,
    gauge,
    labelled,
)

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"))


def test_families_read_back_as_they_were() -> None:
    text = exposition(
        [
            counter("a_total", "How often.", 3),
            gauge("b", "How much \\ of\nwhat.", 0.25, host="h1"),
            labelled("c", "gauge", "By kind.", "kind", {"x": 1, "y": 2.5}),
            gauge("d", "Large.", 12345678901234567890.0),
        ]
    )
    found = {one.name: one for one in read(text)}
    assert [(one.name, one.type) for one in found.values()] == [
        ("a", "counter"),
        ("b", "gauge"),
        ("c", "gauge"),
        ("d", "gauge"),
    ]
    assert found["a"].samples[0].value == 3
    assert found["b"].documentation == "How much \\ of\nwhat."
    assert found["b"].samples[0].labels == {"host": "h1"}
    assert [(one.labels["kind"], one.value) for one in found["c"].samples] == [("x", 1), ("y", 2.5)]
    assert found["d"].samples[0].value == 12345678901234567890.0


@given(st.dictionaries(st.sampled_from(["a", "b_c"]), TEXT), st.floats(allow_nan=False))
def test_no_text_becomes_syntax(labels: dict[str, str], value: float) -> None:
    text = exposition([Family("x", "gauge", "Help.", [Sample("", labels, value)])])
    (family,) = read(text)
    (sample,) = family.samples
    assert (sample.labels, sample.value) == (labels, value)


def test_a_histogram_counts_up_to_each_bound() -> None:
    made = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.5):
        made.observe(value)
    (family,) = read(exposition([made.family("x_seconds", "Help.")]))
    values = {(one.name, one.labels.get("le")): one.value for one in family.samples}
    assert values == {
        ("x_seconds_bucket", "1"): 2,
        ("x_seconds_bucket", "2"): 3,
        ("x_seconds_bucket", "+Inf"): 4,
        ("x_seconds_sum", None): 5.5,
        ("x_seconds_count", None): 4,
    }
    (summary,) = read(exposition([made.summary("y", "Help.")]))
    assert {one.name: one.value for one in summary.samples} == {"y_sum": 5.5, "y_count": 4}
