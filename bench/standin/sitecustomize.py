"""A stand-in accelerator: every batch takes 2 ms of the one device, whatever its size, with the GIL released.

On the PYTHONPATH of a service it replaces what runs the network, so that only HTTP, decoding and hand-over are left.
"""

import sys
import time
from importlib.abc import MetaPathFinder

SECONDS_PER_BATCH = 0.002


class _Patch(MetaPathFinder):
    """Change `service.engine.network` when it is imported, in whichever process that happens."""

    def find_spec(self, name, path=None, target=None):
        if name == "service.engine.fleet":
            sys.meta_path.remove(self)
            self._replace()

    @staticmethod
    def _replace():
        import numpy as np

        from service.engine import loading
        from service.engine.network import Network

        def wait(self, session, rows, outputs):
            time.sleep(SECONDS_PER_BATCH)
            return [np.full((len(rows), 10), 0.1, np.float32) for _ in outputs]

        Network._call = wait
        loading.replay_golden = lambda *_, **__: None


sys.meta_path.insert(0, _Patch())
