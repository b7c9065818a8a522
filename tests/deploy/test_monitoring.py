"""Alert rules, the dashboard and the Kubernetes example name only what the service has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.metrics import Metrics
from service.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
RULE_TESTS = DEPLOY / "prometheus" / "alerts.test.yml"
SCRAPING = str(DEPLOY / "prometheus" / "prometheus.yml")
DASHBOARD = DEPLOY / "grafana" / "clearsight.json"
MANIFESTS = DEPLOY / "kubernetes" / "clearsight.yaml"


def declared() -> set[str]:
    """Return every series name that the registry can expose."""
    names: set[str] = set()
    for line in Metrics().text().decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            names |= {f"{name}_{end}" for end in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


@pytest.mark.parametrize("file", [ALERTS, RULE_TESTS, DASHBOARD], ids=lambda file: file.name)
def test_every_metric_that_is_watched_exists(file: Path) -> None:
    """A series in an alert, its test or a panel is one that `service/metrics.py` declares."""
    used = set(re.findall(r"clearsight_[a-z_]+", file.read_text()))
    assert used, f"{file.name} watches nothing"
    # Prose may name a histogram by its family.
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in declared()}
    assert used - declared() - families == set()


def test_every_metric_is_on_the_dashboard_or_in_an_alert() -> None:
    """Nothing is measured that nobody looks at, but for what only explains a log line."""
    watched = DASHBOARD.read_text() + ALERTS.read_text()
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in declared()}
    assert {name for name in families if name not in watched} <= {"clearsight_model_load_seconds"}


@pytest.mark.parametrize(
    "command", [["check", "config", SCRAPING], ["test", "rules", str(RULE_TESTS)]], ids=["config", "rules"]
)
def test_prometheus_takes_its_configuration_and_alerts_fire_when_they_should(command: list[str]) -> None:
    """`promtool` finds nothing wrong with the configuration, and every rule's unit test passes."""
    promtool = shutil.which("promtool")
    assert promtool, "promtool is not installed: apt-get install prometheus"
    done = subprocess.run([promtool, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_scrape_job_bears_the_name_that_rules_and_panels_ask_for() -> None:
    """`up{job="clearsight"}` exists."""
    jobs = {job["job_name"] for job in _yaml(Path(SCRAPING))[0]["scrape_configs"]}
    asked = set(re.findall(r'job=\\?"(\w+)', ALERTS.read_text() + DASHBOARD.read_text()))
    assert asked == jobs


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    """An alert that never fired in a test may never fire."""
    rules = [rule["alert"] for group in _yaml(ALERTS)[0]["groups"] for rule in group["rules"]]
    cases = [case for test in _yaml(RULE_TESTS)[0]["tests"] for case in test["alert_rule_test"]]
    assert set(rules) == {case["alertname"] for case in cases if case["exp_alerts"]}


def test_every_panel_has_a_query_and_says_what_it_shows() -> None:
    """The dashboard is valid for Grafana's importer: ids are unique, panels lie on its 24 columns."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert panel["description"]
        assert panel["targets"]
        assert place["x"] + place["w"] <= 24


def test_the_seed_job_copies_what_is_missing_and_leaves_what_is_there(tmp_path: Path) -> None:
    """The program in the manifest makes whole models, and none twice."""
    job = next(one for one in _yaml(MANIFESTS) if one["kind"] == "Job")
    program = job["spec"]["template"]["spec"]["containers"][0]["command"][2]
    (tmp_path / "exported" / "new" / "1").mkdir(parents=True)
    (tmp_path / "exported" / "old" / "1").mkdir(parents=True)
    (tmp_path / "store" / "old" / "7").mkdir(parents=True)
    here = program.replace('"/store"', repr(str(tmp_path / "store")))
    for _ in range(2):
        subprocess.run([sys.executable, "-c", here], cwd=tmp_path, check=True)
    assert sorted(str(path.relative_to(tmp_path / "store")) for path in (tmp_path / "store").rglob("*")) == [
        "new", "new/1", "old", "old/7",
    ]  # fmt: skip


def test_the_kubernetes_example_sets_only_settings_that_exist() -> None:
    """Every CLEARSIGHT_ variable in the manifests is a setting, and its value is accepted."""
    container = _service_container()
    values = {item["name"].removeprefix("CLEARSIGHT_").lower(): item["value"] for item in container["env"]}
    settings = Settings(**values)
    grace = _deployment()["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert set(values) <= set(Settings.model_fields)
    assert grace > settings.drain_pause_s + settings.drain_s


def test_probes_ask_endpoints_that_the_service_has() -> None:
    """Start-up, readiness and liveness are three different questions with an endpoint each."""
    container = _service_container()
    probes = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/startupz", "readiness": "/readyz", "liveness": "/livez"}


def _yaml(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def _deployment() -> Any:
    return next(document for document in _yaml(MANIFESTS) if document["kind"] == "Deployment")


def _service_container() -> Any:
    return _deployment()["spec"]["template"]["spec"]["containers"][0]
