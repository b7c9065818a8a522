"""`python -m service.engine.probe`: judge the device in a process that leaves nothing behind."""

from __future__ import annotations

import sys

from bundle.errors import ClearsightError
from bundle.store import Store

from service.engine.devices import choose_device
from service.errors import DeviceUnavailable
from service.settings import EXIT_DEVICE, read_settings


def main() -> int:
    """Return 3, with the reason on standard error, when the policy cannot be met; else 0."""
    settings = read_settings()
    try:
        bundle = Store(settings.store).open(settings.default_model)
        choose_device(settings, bundle.read(bundle.manifest.variants["fp32"].file))
    except DeviceUnavailable as error:
        sys.stderr.write(f"clearsight: {error.detail}\n")
        return EXIT_DEVICE
    except ClearsightError:
        return 0  # the service starts, is not ready, and says why
    return 0


if __name__ == "__main__":
    sys.exit(main())
