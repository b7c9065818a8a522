"""What an exported classifier is: its files, its preprocessing and the store that holds its versions."""

import os

# onnxruntime's packages (1.29 and newer) tell their maker about the machine and its models, unless this is set before
# they are imported. Every package of ours imports this one first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
