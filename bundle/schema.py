"""The JSON Schema of `bundle.json`, generated from the models that read it."""

from __future__ import annotations

import json

from bundle.manifest import Manifest


def schema_text() -> str:
    """Return the schema (JSON Schema 2020-12) as it lies in docs/bundle.schema.json."""
    schema = Manifest.model_json_schema(by_alias=True)
    heading = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Clearsight bundle.json"}
    return json.dumps(heading | {k: v for k, v in schema.items() if k != "title"}, indent=1) + "\n"
