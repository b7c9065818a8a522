"""What is logged when more is refused than anybody would read."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from flask.testing import FlaskClient

from service import app
from service.logs import Sparing


def test_so_many_lines_a_second_and_then_how_many_were_left_out() -> None:
    sparing = Sparing(2)
    assert [sparing.left_out(now) for now in (7.0, 7.1, 7.2, 7.9, 8.0, 8.1, 8.2, 9.5)] == [
        0, 0, None, None, 2, 0, None, 1,
    ]  # fmt: skip


def test_refusals_are_logged_sparingly_and_faults_always(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_refusals", Sparing(3))
    caplog.set_level(logging.INFO, "clearsight.http")
    shared = client.application.extensions["clearsight"]
    monkeypatch.setattr(shared.tickets, "free", 0)
    monkeypatch.setattr(shared.tickets, "acquire", lambda: False)
    statuses = [client.post("/predict", data=b"x", content_type="image/png").status_code for _ in range(40)]
    statuses += [client.get("/nowhere").status_code for _ in range(15)]
    assert Counter(statuses) == {503: 40, 404: 15}
    lines = [record.getMessage() for record in caplog.records if record.name == "clearsight.http"]
    refusals = [line for line in lines if "503" in line]
    assert 3 <= len(refusals) < 40  # three for each second that the requests took
    assert sum("404" in line for line in lines) == 15
