"""``python -m dispatcher``: read the configuration from standard input, and serve.

The first line of standard input is a ``Config`` in JSON, with the keys; the answer on standard
output is one line of JSON with the URL, once the socket listens, or with the error.  The end of
standard input ends the dispatcher, so that it never outlives the process that holds the pipe.
"""

from __future__ import annotations

import json
import os
import signal
import sys


def main() -> None:
    """Serve until standard input ends or a signal comes."""
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return  # whoever was to send it has died meanwhile
    # From now on there may be daemons, which shall not be left alone.
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    settings = json.loads(line)
    # The daemons are started before anything slow is imported: they have imports of their own.
    from dispatcher.processes import Plan

    plan = Plan(**settings["plan"])
    started, error = [], None
    try:
        for slot in range(plan.count):
            if signals:
                break
            started.append(plan.start(plan.kind(slot)))
    except OSError as failure:
        error = failure
    from dispatcher.server import serve

    serve(settings, started, error, signals)
    os._exit(0)  # nothing is left to be done, and whoever waits for us need not wait for that


if __name__ == "__main__":
    main()
