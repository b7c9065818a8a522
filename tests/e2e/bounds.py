"""How strict the bounds on time are: `make faults` wants a machine with nothing else to do and takes them literally."""

from __future__ import annotations

import os

TIGHT = os.environ.get("FAULTS") == "tight"
SLACK_S = 0.0 if TIGHT else 5.0
"""What a busy machine may add to the time of a recovery."""
