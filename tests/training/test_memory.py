"""Training does not hand its activations back to the kernel after every layer."""

from __future__ import annotations

import subprocess
import sys

import pytest

BATCHES = """
import ctypes, resource, sys
import numpy as np
if sys.argv[1] == "kept":
    from training.memory import keep_freed_memory
    keep_freed_memory()

def batch():
    return [np.ones(2**20, np.float64) for _ in range(12)]  # 8 MiB each, all freed at the end

batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_blocks_are_used_again_without_asking_the_kernel():
    def faults(how):
        return int(subprocess.run([sys.executable, "-c", BATCHES, how], capture_output=True, check=True).stdout)

    assert faults("kept") < faults("returned") / 10
