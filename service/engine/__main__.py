"""The engine's process: `python -m service.engine NUMBER`, the parent's NUMBERth start of it."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

from service.engine.engine import Engine
from service.engine.memory import use_one_heap
from service.instance import Instance
from service.ipc.server import Server
from service.logs import configure_logs
from service.metrics import Metrics
from service.settings import EXIT_DEVICE, read_settings


def main() -> int:
    """Serve the workers of one instance until SIGTERM. Return 3 when `cuda!` is not met at the start."""
    settings = read_settings()
    configure_logs(settings)
    instance = Instance.inherited()
    if instance is None or len(sys.argv) != 2:
        sys.stderr.write("clearsight: the engine is started by `python -m service serve`\n")
        return 2
    use_one_heap()
    metrics = Metrics()
    metrics.engine_starts.inc(int(sys.argv[1]))
    engine = Engine(settings, metrics)
    server = Server(engine, instance)

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        server.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine.start()
    threading.Thread(target=_watch_device, args=(engine, server), daemon=True).start()
    server.run(settings.drain_s)
    engine.stop()
    engine.sum_up()
    return EXIT_DEVICE if engine.fleet.accelerator.fatal else 0


def _watch_device(engine: Engine, server: Server) -> None:
    """Stop when the first look found that the demanded device is not there."""
    engine.fleet.roster.first_look.wait()
    if engine.fleet.accelerator.fatal:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
