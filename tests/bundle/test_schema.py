"""The JSON Schema and the specification say what the code reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from factory import publish_colors

from bundle import manifest
from bundle.__main__ import main, parser
from bundle.manifest import parse_manifest
from bundle.schema import schema_text
from bundle.store import Channels, Store

ROOT = Path(__file__).parents[2]
SPECIFICATION = (ROOT / "docs" / "bundle.md").read_text()


def test_the_schema_in_the_documents_is_the_generated_one(capsys):
    """When this fails: python -m bundle schema > docs/bundle.schema.json"""
    assert (ROOT / "docs" / "bundle.schema.json").read_text() == schema_text()
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema_text()


def test_a_bundle_that_the_code_reads_satisfies_the_schema(tmp_path):
    bundle = publish_colors(tmp_path)
    values = json.loads((bundle.path / "bundle.json").read_text())
    validator = jsonschema.Draft202012Validator(json.loads(schema_text()))
    validator.validate(values)
    for key in values:
        less = {k: v for k, v in values.items() if k != key}
        assert not validator.is_valid(less), f"a bundle without {key}"
    assert not validator.is_valid(values | {"colour": 1})


@pytest.mark.parametrize("name", Store(ROOT / "exported").names())
def test_shipped_bundles_satisfy_the_schema(name):
    validator = jsonschema.Draft202012Validator(json.loads(schema_text()))
    for version in Store(ROOT / "exported").versions(name):
        raw = (ROOT / "exported" / name / str(version) / "bundle.json").read_bytes()
        validator.validate(json.loads(raw))
        parse_manifest(raw)


def models():
    found = [value for value in vars(manifest).values() if isinstance(value, type)]
    return [m for m in found if issubclass(m, manifest.Strict) and m is not manifest.Strict]


UNEXPLAINED = {"opset", "support", "precision", "recall", "f1", "edges", "counts", "seed"}
KEYS = sorted({(f.alias or n) for m in [*models(), Channels] for n, f in m.model_fields.items()} - UNEXPLAINED)


@pytest.mark.parametrize("key", KEYS)
def test_the_specification_names_every_key(key):
    assert re.search(rf"`{key}`", SPECIFICATION), f"docs/bundle.md does not explain {key}"


@pytest.mark.parametrize("line", re.findall(r"^python -m bundle (?!import)(.*)$", SPECIFICATION, re.MULTILINE))
def test_documented_commands_parse(line):
    parser().parse_args(line.split())


def test_the_documented_import_parses():
    text = re.search(r"python -m bundle (import .*?)\n```", SPECIFICATION, re.DOTALL)[1]
    parser().parse_args(text.replace("\\\n", " ").split())
