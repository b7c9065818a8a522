"""Speed, measured: the limits of a machine, the service, and its peers, in one run."""

import bundle  # noqa: F401 (before onnxruntime, whose telemetry it turns off)
