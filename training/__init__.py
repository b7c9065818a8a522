"""Makes bundles: data, models, training, evaluation, export and the promotion gate."""

import bundle  # noqa: F401 (before onnxruntime, whose telemetry it turns off)
