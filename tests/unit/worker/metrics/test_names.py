"""The metrics: named as docs/reference/metrics.md has them and by Prometheus' rules, of a bounded number of series."""

import re
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from levelq.cli import metrics as command
from levelq_core.operations.readings.gauges import GAUGES, STATES, Gauges, Sample
from levelq_worker.metrics.exposition import BUILD, families, text_of
from levelq_worker.metrics.figures import Layout
from levelq_worker.metrics.names import METRICS, OTHER, VALUES
from tests.architecture.sources import ROOT

PAGE = (ROOT / "docs" / "reference" / "metrics.md").read_text()
UNITS = {"seconds", "bytes"}  # the base units that these metrics need
NO_UNITS = ("_ms", "milliseconds", "minutes", "hours", "_mb", "percent")
DECLARED = [(metric.name, metric.type, metric.labels, metric.help) for metric in METRICS]
DECLARED += [(BUILD[0], "gauge", ("version",), BUILD[1])]
DECLARED += [(name, "gauge", labels, meaning) for name, (labels, meaning) in GAUGES.items()]


def documented() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    for name, kind, labels, meaning in re.findall(r"^\| `(levelq_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", PAGE, re.M):
        yield name, kind, tuple(re.findall(r"`(\w+)`", labels)), meaning.replace("`", "")


def test_metrics_page_has_every_metric_with_its_type_labels_and_meaning_and_no_other() -> None:
    assert list(documented()) == [(*declared, meaning.replace("`", "")) for *declared, meaning in DECLARED]


def test_metrics_page_has_every_value_of_every_label() -> None:
    listed = {
        label: re.findall(r"`(\w+)`", values) for label, values in re.findall(r"^\| `(\w+)` \| (`.*) \|$", PAGE, re.M)
    }
    for label, values in VALUES.items():
        assert set(listed[label]) == set(values), label
    assert "- `state` is " + ", ".join(f"`{state}`" for state in STATES[:-1]) in PAGE


@pytest.mark.parametrize(("name", "kind", "labels", "meaning"), DECLARED, ids=[name for name, *_ in DECLARED])
def test_name_follows_prometheus_rules(name: str, kind: str, labels: tuple[str, ...], meaning: str) -> None:
    """What `promtool check metrics` would complain of."""
    assert re.fullmatch(r"levelq(_[a-z]+)+", name)
    assert name.endswith("_total") is (kind == "counter")
    assert not name.endswith(("_count", "_sum", "_bucket", "_info")) or name == BUILD[0]
    assert not any(unit in name for unit in NO_UNITS) and kind not in name
    assert all(unit == name.removesuffix("_total").rpartition("_")[2] for unit in UNITS if unit in name)
    assert meaning.endswith(".") and not {"le", "quantile", "user", "user_id"} & set(labels)


def test_exported_names_are_the_declared_ones_and_the_text_can_be_parsed() -> None:
    layout = Layout(["PLAYER"])
    every = [Sample(name=name, labels=dict.fromkeys(labels, "x"), value=1) for name, (labels, _) in GAUGES.items()]
    text = text_of(lambda: families(layout, [[0.0] * layout.cells] * 2))
    text += text_of(lambda: command.families(Gauges(samples=tuple(every), problems=())))
    parsed = list(text_string_to_metric_families(text))
    assert [family.name + "_total" * (family.type == "counter") for family in parsed] == [name for name, *_ in DECLARED]
    assert [family.type for family in parsed] == [kind for _, kind, *_ in DECLARED]
    assert all(family.samples for family in parsed)


def test_number_of_series_is_fixed_by_the_catalog() -> None:
    names = [f"S{n}" for n in range(10)]
    for metric in METRICS:
        bound = 1
        for label in metric.labels:
            bound *= len(names) + 1 if label == "specialization" else len(VALUES[label])
        assert len(metric.series(names)) == bound <= 250, metric.name
    assert OTHER in {values[0] for values in METRICS[0].series(names)}
