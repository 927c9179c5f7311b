"""promtool on the alert rules, the configuration and the names. It comes with apt's package `prometheus`."""

import shutil
import subprocess
from pathlib import Path

import pytest

from levelq.cli import metrics as command
from levelq_core.operations.readings.gauges import GAUGES, Gauges, Sample
from levelq_worker.metrics.exposition import families, text_of
from levelq_worker.metrics.figures import Layout
from tests.architecture.sources import ROOT

MONITORING = ROOT / "docs" / "monitoring"


@pytest.fixture(scope="session")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program; unpacked from its package, so that no server is installed."""
    found = shutil.which("promtool")
    if found is not None:
        return found
    folder: Path = tmp_path_factory.mktemp("prometheus")
    unpack = "apt-get -qq update && apt-get -qq download prometheus && dpkg -x prometheus_*.deb ."
    subprocess.run(["sh", "-c", unpack], cwd=folder, check=True)
    return str(folder / "usr" / "bin" / "promtool")


@pytest.mark.parametrize(("kind", "file"), [("rules", "alerts.yml"), ("config", "prometheus.yml")])
def test_promtool_accepts_rules_and_configuration(promtool: str, kind: str, file: str) -> None:
    subprocess.run([promtool, "check", kind, str(MONITORING / file)], check=True)


def test_alerts_fire_where_something_is_wrong_and_only_there(promtool: str) -> None:
    subprocess.run([promtool, "test", "rules", str(Path(__file__).with_name("alerts.test.yml"))], check=True)


def test_promtool_finds_nothing_wrong_with_the_metrics(promtool: str) -> None:
    layout = Layout(["PLAYER"])
    every = [Sample(name=name, labels=dict.fromkeys(labels, "x"), value=1) for name, (labels, _) in GAUGES.items()]
    text = text_of(lambda: families(layout, [[0.0] * layout.cells]))
    text += text_of(lambda: command.families(Gauges(samples=tuple(every), problems=())))
    done = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
