"""What it takes to import the package, and what a daemon must import before it can work.

Each is imported in a fresh process, which then ends; "nothing" is what the process alone takes.
The bytecode is there: the first import, unmeasured, has written it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec

from _table import Row, parser, show

STATEMENTS = {
    "nothing": "import sys",
    "mirai": "import mirai",
    "mirai, a daemon": "import mirai._daemon",
    "mirai, a dispatcher": "import dispatcher.server",
    "concurrent.futures": "from concurrent.futures import ProcessPoolExecutor",
    "multiprocessing": "from multiprocessing import Pool",
    "loky": "import loky",
    "joblib": "import joblib",
    "distributed": "import distributed",
    "ray": "import ray",
    "parsl": "import parsl",
}
"""Who -> what is imported."""


def seconds(statement: str) -> float:
    """Return how long a process lives that does only this."""
    environment = {**os.environ}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, env=environment)
    return time.perf_counter() - begun


def main() -> None:
    """Measure, and print the table."""
    options = parser(__doc__, repeats=10).parse_args()
    statements = {
        who: statement
        for who, statement in STATEMENTS.items()
        if find_spec(statement.split()[1].partition(".")[0]) is not None
    }
    taken: dict[str, list[float]] = {who: [] for who in statements}
    for turn in range(options.repeats + 1):
        for who, statement in statements.items():
            took = seconds(statement)
            if turn:  # the first one warms up
                taken[who].append(took)
    show("Import", [Row("import", who, took) for who, took in taken.items()], options.json)


if __name__ == "__main__":
    main()
