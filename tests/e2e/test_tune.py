"""`tune` as an operator runs it: measured, stored, used by `serve`, and shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.e2e.running import ROOT, Running, service


def test_what_tune_stored_is_what_serve_runs(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    command = [sys.executable, "-m", "service", "tune", "--output", str(path)]
    environment = Running(store, tmp_path).environment
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"serve with CLEARSIGHT_TUNING={path}" in done.stdout
    ((machine, found),) = json.loads(path.read_text()).items()
    assert "cores, onnxruntime" in machine
    rates = found["images_per_second"]
    assert max(rates, key=rates.get) == f"{found['runners']} runners x {found['threads']} threads"
    assert all(rate > 0 for rate in rates.values())

    other = {**found, "runners": found["runners"] + 1}  # a plan that no default would give
    path.write_text(json.dumps({machine: other, "another machine": {"runners": 9, "threads": 9}}))
    with service(store, tmp_path, tuning=path) as running:
        plan = json.loads(running.get("/batching")[1])
    assert (plan["runners"], plan["threads_per_runner"]) == (other["runners"], other["threads"])
    assert plan["runners_from"] == "tuning"


def test_tune_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    environment = Running(tmp_path / "empty", tmp_path).environment
    command = [sys.executable, "-m", "service", "tune", "--output", str(tmp_path / "tuning.json")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("clearsight: ")
    assert "colors" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "tuning.json").exists()
