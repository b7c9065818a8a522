"""Safe by default, on the real service: keys and scopes, rotation, rates, CORS, headers, TLS."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from service.access import new_key
from tests.factory import color_image
from tests.running import Running, serving

RED = color_image("red")
OPEN = ["/livez", "/readyz", "/startupz", "/metrics", "/v2", "/v2/health/live", "/v2/health/ready"]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    user, admin = new_key("user", ("predict",)), new_key("root", ("predict", "admin"))
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"{user[1]}\n{admin[1]}\n")
    return {"user": user[0], "admin": admin[0], "path": str(path)}


@pytest.fixture(scope="module")
def guarded(store: Path, keys: dict[str, str]) -> Iterator[Running]:
    origins = '["https://a.example"]'
    with serving(store, "colors", api_keys=keys["path"], cors_origins=origins, access_log="all", workers=2) as running:
        yield running


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def becomes(status: int, url: str, secret: str) -> bool:
    """Whether every one of 20 answers in a row, over all workers, has this status within ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if all(requests.get(url, headers=bearer(secret), timeout=10).status_code == status for _ in range(20)):
            return True
    return False


def test_without_keys_predictions_are_open_and_admin_is_closed(server: Running) -> None:
    assert requests.post(f"{server.url}/predict", data=RED, timeout=10).status_code == 200
    for action in ("load", "unload"):
        refused = requests.post(f"{server.url}/v2/repository/models/colors/{action}", timeout=10)
        assert refused.status_code == 403
        assert "no keys are configured" in refused.json()["error"]


@pytest.mark.parametrize("path", OPEN)
def test_probes_and_metrics_need_no_key(guarded: Running, path: str) -> None:
    assert requests.get(guarded.url + path, timeout=10).status_code == 200


@pytest.mark.parametrize("path", ["/models", "/batching", "/v2/models/colors", "/v2/models/colors/ready"])
def test_everything_else_needs_one(guarded: Running, keys: dict[str, str], path: str) -> None:
    refused = requests.get(guarded.url + path, timeout=10)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert requests.get(guarded.url + path, headers=bearer(keys["user"]), timeout=10).status_code == 200


def test_codes_and_no_key_in_the_log(guarded: Running, keys: dict[str, str]) -> None:
    def ask(**headers: str) -> tuple[int, str]:
        answer = requests.post(f"{guarded.url}/predict", data=RED, headers=headers, timeout=10)
        return answer.status_code, answer.json().get("code", "")

    assert ask() == (401, "auth.missing")
    assert ask(Authorization="Bearer cs_wrong_key") == (401, "auth.unknown_key")
    assert ask(**{"X-API-Key": keys["user"]}) == (200, "")
    log = guarded.log.read_text()
    assert "cs_wrong_key" not in log
    assert keys["user"] not in log


def test_admin_needs_its_scope_and_then_works(guarded: Running, keys: dict[str, str]) -> None:
    url = f"{guarded.url}/v2/repository/models/shades"
    assert requests.post(f"{url}/unload", headers=bearer(keys["user"]), timeout=10).status_code == 403
    ready = f"{guarded.url}/v2/models/shades/ready"
    assert requests.post(f"{url}/unload", headers=bearer(keys["admin"]), timeout=30).status_code == 200
    assert becomes(503, ready, keys["user"])
    assert requests.post(f"{url}/load", headers=bearer(keys["admin"]), timeout=30).status_code == 200
    assert becomes(200, ready, keys["user"])
    refused = requests.post(f"{url}/load", json={"parameters": {"config": "{}"}}, headers=bearer(keys["admin"]))
    assert refused.status_code == 400
    assert "as it was published" in refused.json()["error"]


def test_a_key_is_added_and_withdrawn_without_a_restart(guarded: Running, keys: dict[str, str]) -> None:
    path = Path(keys["path"])
    before = path.read_text()
    secret, line = new_key("late", ("predict",))

    path.write_text(before + line + "\n")
    assert becomes(200, f"{guarded.url}/models", secret)
    path.write_text(before)
    assert becomes(401, f"{guarded.url}/models", secret)


def test_cors_answers_the_origins_of_the_setting_only(guarded: Running, keys: dict[str, str]) -> None:
    preflight = requests.options(
        f"{guarded.url}/predict",
        headers={"Origin": "https://a.example", "Access-Control-Request-Method": "POST"},
        timeout=10,
    )
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    for origin, allowed in (("https://a.example", "https://a.example"), ("https://b.example", None)):
        answer = requests.get(f"{guarded.url}/models", headers={**bearer(keys["user"]), "Origin": origin}, timeout=10)
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed


def test_without_the_setting_there_is_no_cors(server: Running) -> None:
    answer = requests.get(f"{server.url}/models", headers={"Origin": "https://a.example"}, timeout=10)
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_answers_are_not_sniffed(server: Running) -> None:
    for path in ("/models", "/nowhere", "/livez"):
        assert requests.get(server.url + path, timeout=10).headers["X-Content-Type-Options"] == "nosniff"


def test_a_caller_over_its_rate_is_told_when_to_come_back(store: Path) -> None:
    with serving(store, "colors", rate_limit=0.2, rate_burst=3, workers=2) as running:
        answers = [requests.post(f"{running.url}/predict", data=RED, timeout=10) for _ in range(5)]
        assert [a.status_code for a in answers][:3] == [200, 200, 200]
        refused = answers[-1]
        assert (refused.status_code, refused.json()["code"]) == (429, "rate.limited")
        assert int(refused.headers["Retry-After"]) >= 1
        assert requests.get(f"{running.url}/livez", timeout=10).status_code == 200


def test_headers_over_the_limit_are_refused(server: Running) -> None:
    host, port = server.address.split(":")
    for head in (b"X-Long: " + b"a" * 9000, b"\r\n".join(b"X-%d: 1" % i for i in range(80))):
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
            status = sock.recv(4096).split(b" ")[1]
        assert status in (b"400", b"431")
    assert requests.get(f"{server.url}/livez", timeout=10).status_code == 200
