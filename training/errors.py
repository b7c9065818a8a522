"""What can stop training, each with a sentence that says what was wrong and what would be right."""

from __future__ import annotations

from bundle.errors import ClearsightError


class TrainingError(ClearsightError):
    """Anything that stops a training command; the detail is written for the person who typed it."""

    code = "training.failed"


class RecipeError(TrainingError):
    """A recipe with an unknown key, a value of the wrong kind or a combination that cannot be trained."""

    code = "training.recipe"


class DataError(TrainingError):
    """Images or labels that cannot be read, named by their paths."""

    code = "training.data"


class RunError(TrainingError):
    """A run folder or checkpoint that is missing, damaged or does not fit."""

    code = "training.run"


class ExportMismatch(TrainingError):
    """An exported graph that does not give what PyTorch gives."""

    code = "training.export_mismatch"


class GateRefusal(TrainingError):
    """Champion and candidate that cannot be compared fairly."""

    code = "training.gate_refusal"
