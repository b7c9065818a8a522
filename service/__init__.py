"""Serves bundles over HTTP: Flask in front, one engine behind."""

import bundle  # noqa: F401 (before onnxruntime, whose telemetry it turns off)
