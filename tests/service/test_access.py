"""API keys and rates: what is stored, what is compared, and what changes without a restart."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from service import access
from service.__main__ import main
from service.access import ADMIN, PREDICT, KeyStore, authorize, new_key, parse_keys, secret_of
from service.engine.rates import MOST_CALLERS, Rates


def stored(path: Path, *lines: str) -> KeyStore:
    path.write_text("# keys\n" + "\n".join(lines) + "\n")
    return KeyStore(path)


def test_the_file_holds_a_hash_and_not_the_key() -> None:
    secret, line = new_key("alice", (PREDICT, ADMIN))
    assert secret not in line
    assert line == f"alice predict,admin {hashlib.sha256(secret.encode()).hexdigest()}"
    assert new_key("alice", (PREDICT,))[0] != secret


def test_a_key_is_found_whatever_its_place(tmp_path: Path) -> None:
    made = [new_key(name, (PREDICT,)) for name in ("a", "b", "c")]
    keys = stored(tmp_path / "keys", *(line for _, line in made))
    assert [key.name for secret, _ in made if (key := keys.find(secret))] == ["a", "b", "c"]
    assert keys.find("cs_guess") is None
    assert keys.find("") is None
    assert keys.find("\udcff") is None


@pytest.mark.parametrize("line", ["alice predict", "alice root " + "0" * 64, "a b c d", "alice predict " + "z" * 64])
def test_a_bad_line_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 is not"):
        parse_keys("# first\n" + line)


def test_keys_rotate_without_a_restart_and_a_broken_file_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_LOOK_S", 0.0)
    (old, first), (new, second) = new_key("old", (PREDICT,)), new_key("new", (PREDICT,))
    keys = stored(tmp_path / "keys", first)
    assert keys.find(new) is None
    (tmp_path / "keys").write_text(f"{first}\n{second}\n")
    assert keys.find(new) and keys.find(old)
    (tmp_path / "keys").write_text("nonsense")
    assert keys.find(new) and keys.find(old)
    (tmp_path / "next").write_text(second)
    (tmp_path / "next").replace(tmp_path / "keys")
    assert keys.find(new) and not keys.find(old)
    (tmp_path / "keys").unlink()
    assert keys.find(new)


def test_scopes_are_enforced(tmp_path: Path) -> None:
    secret, line = new_key("bob", (PREDICT,))
    keys = stored(tmp_path / "keys", line)
    environ = {"HTTP_AUTHORIZATION": f"Bearer {secret}"}
    assert authorize(keys, environ, PREDICT).name == "bob"
    with pytest.raises(access.ScopeMissing, match="'bob' does not have the scope 'admin'"):
        authorize(keys, environ, ADMIN)
    with pytest.raises(access.KeyMissing):
        authorize(keys, {}, PREDICT)
    with pytest.raises(access.KeyUnknown) as caught:
        authorize(keys, {"HTTP_X_API_KEY": "cs_secret_guess"}, PREDICT)
    assert "guess" not in caught.value.detail


@pytest.mark.parametrize(
    ("environ", "secret"),
    [
        ({"HTTP_AUTHORIZATION": "Bearer k"}, "k"),
        ({"HTTP_AUTHORIZATION": "bearer  k "}, "k"),
        ({"HTTP_X_API_KEY": " k"}, "k"),
        ({"HTTP_AUTHORIZATION": "Basic abc", "HTTP_X_API_KEY": "k"}, "k"),
        ({"HTTP_AUTHORIZATION": "Basic abc"}, ""),
        ({}, ""),
    ],
)
def test_where_the_key_is_looked_for(environ: dict[str, str], secret: str) -> None:
    assert secret_of(environ) == secret


def test_the_command_makes_a_key_that_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "ci", "--scope", "predict", "--scope", "admin", "--file", str(tmp_path / "keys")]) == 0
    key = KeyStore(tmp_path / "keys").find(capsys.readouterr().out.strip())
    assert key is not None
    assert (key.name, key.scopes) == ("ci", {PREDICT, ADMIN})
    assert main(["key", "bad name"]) == 2


def test_a_bucket_grants_its_burst_and_then_its_rate() -> None:
    rates = Rates(2.0, 3)
    assert [rates.take("a", 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert rates.take("b", 0.0) == 0.0
    assert rates.take("a", 0.4) == pytest.approx(0.1)
    assert rates.take("a", 0.5) == 0.0
    assert [rates.take("a", 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_callers_are_forgotten_and_not_collected_for_ever() -> None:
    rates = Rates(1.0, 1)
    for number in range(MOST_CALLERS + 50):
        rates.take(str(number), 0.0)
    assert len(rates._buckets) == MOST_CALLERS


def test_no_rate_is_no_limit() -> None:
    rates = Rates(0.0, 1)
    assert {rates.take("a", 0.0) for _ in range(100)} == {0.0}
