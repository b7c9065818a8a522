"""A slow disk: to read a version takes two seconds.

Put on PYTHONPATH of a service, it waits in front of the check of a version's files.
"""

import sys
import time
from importlib.abc import MetaPathFinder

SECONDS_PER_VERSION = 2.0


class _Patch(MetaPathFinder):
    """Change `bundle.store` when the engine is imported, in whichever process that happens."""

    def find_spec(self, name, path=None, target=None):
        if name == "service.engine.fleet":
            sys.meta_path.remove(self)
            from bundle.store import Store

            inner = Store.check_files

            def slow(self, bundle):
                time.sleep(SECONDS_PER_VERSION)
                return inner(self, bundle)

            Store.check_files = slow


sys.meta_path.insert(0, _Patch())
