"""docs/monitoring: its queries use names that the code exports, and each alert leads to its section of the runbook."""

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from promql_parser import MatchOp, VectorSelector

from levelq_core.operations.readings.gauges import GAUGES, STATES
from levelq_worker.metrics.exposition import BUILD
from levelq_worker.metrics.names import METRICS, VALUES
from tests.architecture.sources import ROOT
from tests.support.containers import compose

FOLDER = ROOT / "docs" / "monitoring"
RUNBOOK = (ROOT / "docs" / "how-to" / "runbook.md").read_text()
SECTIONS = dict(re.findall(r"^### (\w+)\n(.+?)(?=^##|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
LABELS = {name: set(labels) for name, (labels, _) in GAUGES.items()} | {BUILD[0]: {"version"}}
for _metric in METRICS:
    for _suffix in ("_bucket", "_sum", "_count") if _metric.type == "histogram" else ("",):
        LABELS[_metric.name + _suffix] = {*_metric.labels, *(["le"] if _suffix == "_bucket" else [])}
FIXED = {**VALUES, "state": STATES, "server": ("redis", "rq", "postgresql")}


def queries() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$specialization", ".*")


def wrong(query: str) -> list[str]:
    """What of a query the code does not export: a metric, a label, a label's value. Raises ValueError."""
    found: list[str] = []

    def visit(node: Any) -> bool:
        if isinstance(node, VectorSelector):
            labels = LABELS.get(str(node.name), set())
            found.extend([str(node.name)] * (node.name not in LABELS))
            for matcher in node.matchers.matchers:
                unknown = matcher.op == MatchOp.Equal and matcher.value not in FIXED.get(matcher.name, (matcher.value,))
                found.extend([f"{matcher.name}={matcher.value}"] * (matcher.name not in labels or unknown))
        return True

    promql_parser.walk(promql_parser.parse(query), visit)
    for grouped in re.findall(r"\b(?:by|on) \(([^)]*)\)", query):
        named = set(re.findall(r"\w+", grouped))
        found.extend(
            named - set().union(*(LABELS[name] for name in re.findall(r"levelq_\w+", query) if name in LABELS))
        )
    return found


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_query_uses_metrics_labels_and_values_that_are_exported(where: str, query: str) -> None:
    assert wrong(query) == []


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("rate(levelq_command_total[5m])", "levelq_command_total"),
        ("levelq_send_to_commit_seconds", "levelq_send_to_commit_seconds"),
        ('levelq_commands_total{outcome="refused"}', "outcome=refused"),
        ('levelq_up{user="1"}', "user=1"),
        ("sum by (lane) (levelq_ready_lanes)", "lane"),
    ],
)
def test_query_with_a_name_that_is_not_exported_is_found(query: str, name: str) -> None:
    assert wrong(query) == [name]


def test_query_that_is_no_promql_is_refused() -> None:
    with pytest.raises(ValueError):
        wrong("sum by (levelq_up")


def test_alerts_are_complete_and_each_leads_to_its_section_of_the_runbook() -> None:
    assert [rule["alert"] for rule in RULES] == list(dict.fromkeys(rule["alert"] for rule in RULES))
    assert {rule["alert"] for rule in RULES} == SECTIONS.keys()
    for rule in RULES:
        assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"].endswith(f"/how-to/runbook.html#{rule['alert'].lower()}")
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))
        labels = {label for name in re.findall(r"levelq_\w+", rule["expr"]) for label in LABELS[name]} | {"instance"}
        used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert used <= labels, rule["alert"]


@pytest.mark.parametrize("name", SECTIONS)
def test_section_of_the_runbook_says_what_it_means_what_shows_it_and_what_to_do(name: str) -> None:
    assert re.search(r"\*\*Means\*\*: .+\*\*See\*\*: .+\*\*Do\*\*:", SECTIONS[name], re.DOTALL)


def test_links_within_the_runbook_lead_to_sections() -> None:
    assert set(re.findall(r"\]\(#(\w+)\)", RUNBOOK)) <= {name.lower() for name in SECTIONS}


def test_dashboard_covers_every_metric_and_its_panels_do_not_overlap() -> None:
    every = " ".join(query for _, query in queries())
    shown = {name for name in LABELS if re.search(rf"\b{name}\b", every)}
    shown |= {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    declared = {metric.name for metric in METRICS} | GAUGES.keys()
    assert declared - shown <= {"levelq_drift_finished_timestamp_seconds"}
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24


def test_compose_profile_mounts_the_files_and_scrapes_the_ports_that_the_services_open() -> None:
    document = compose()
    services = {name for name, service in document["services"].items() if service.get("profiles") == ["monitoring"]}
    assert services == {"metrics", "prometheus", "grafana"}
    mounted = {c["source"]: c["target"] for name in services for c in document["services"][name].get("configs", ())}
    assert mounted.keys() == document["configs"].keys()
    assert {(ROOT / config["file"]) for config in document["configs"].values()} == set(FOLDER.iterdir())
    scrapes = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert mounted["alerts"] == "/etc/prometheus/" + scrapes["rule_files"][0]
    namespace, hosts = scrapes["scrape_configs"]
    metrics, worker = document["services"]["metrics"], document["services"]["worker"]
    assert namespace["static_configs"][0]["targets"] == [f"metrics:{metrics['command'][-1]}"]
    assert (hosts["dns_sd_configs"][0]["names"], str(hosts["dns_sd_configs"][0]["port"])) == (
        ["worker"],
        worker["environment"]["LEVELQ_METRICS_PORT"],
    )
    datasource = yaml.safe_load((FOLDER / "grafana-datasource.yml").read_text())["datasources"][0]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {datasource["uid"]}
    provider = yaml.safe_load((FOLDER / "grafana-dashboards.yml").read_text())["providers"][0]
    assert mounted["dashboard"].startswith(provider["options"]["path"] + "/")
