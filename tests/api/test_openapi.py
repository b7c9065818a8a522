"""The description of the API is complete, valid, and true of the answers."""

from __future__ import annotations

import pytest
import requests
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator

from service.guards import ADMIN_ONLY, OPEN
from service.operations import OPERATIONS
from service.routes.openapi import document, paths_of
from service.schema import Prediction1, Predictions, Problem
from tests.factory import color_image
from tests.running import Running


@pytest.fixture
def described(server: Running) -> dict:  # type: ignore[type-arg]
    return dict(requests.get(f"{server.url}/openapi.json", timeout=10).json())


def test_every_route_is_described_and_nothing_else(client: FlaskClient) -> None:
    assert set(paths_of(client.application)) == set(OPERATIONS)
    endpoints = {rule.endpoint for rule in client.application.url_map.iter_rules()}
    assert endpoints >= OPEN
    assert endpoints >= ADMIN_ONLY


def test_the_document_is_openapi_3_1_and_its_schemas_are_valid(described: dict) -> None:  # type: ignore[type-arg]
    assert described["openapi"] == "3.1.0"
    for schema in described["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    operations = [o for methods in described["paths"].values() for o in methods.values()]
    assert len({o["operationId"] for o in operations}) == len(operations)
    assert all(o["summary"].endswith(".") for o in operations)


def test_every_reference_is_there(client: FlaskClient) -> None:
    built = document(client.application)

    def references(node: object) -> set[str]:
        if isinstance(node, dict):
            found = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return found.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    there = {f"#/components/schemas/{name}" for name in built["components"]["schemas"]}
    assert references(built) <= there


def test_answers_are_what_the_documents_say(server: Running) -> None:
    red = color_image("red")
    strict = {"strict": True}
    one = requests.post(f"{server.url}/predict?embedding=true&threshold=1", data=red, timeout=10)
    assert Prediction1.model_validate_json(one.content, **strict).model_dump(exclude_none=True) == one.json()
    parts = [("image", red), ("image", b"junk")]
    many = requests.post(f"{server.url}/predict", files=parts, timeout=10)
    assert Predictions.model_validate_json(many.content, **strict).model_dump(exclude_none=True) == many.json()
    bad = requests.post(f"{server.url}/predict", data=b"junk", timeout=10)
    assert Problem.model_validate_json(bad.content, **strict).model_dump() == bad.json()


@pytest.mark.parametrize("path", ["/", "/docs", "/assets/page.js", "/assets/docs.js", "/assets/style.css"])
def test_pages_load_nothing_from_elsewhere(server: Running, path: str) -> None:
    page = requests.get(server.url + path, timeout=10)
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "//cdn" not in page.text


def test_no_file_beside_the_pages_is_given(server: Running) -> None:
    for name in ("..%2f__init__.py", "page.html", "nothing.js"):
        assert requests.get(f"{server.url}/assets/{name}", timeout=10).status_code == 404
