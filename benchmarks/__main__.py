"""All benchmarks, each in a process of its own: tables on the screen, JSON and plots in a folder.

python -m benchmarks                        all of them, with every peer that is installed
python -m benchmarks noop latency           only these
python -m benchmarks --quick                smaller, and only with what Python brings along
python -m benchmarks --soak 10              one pool at work for ten minutes: does anything grow?
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).parent
QUESTIONS = {
    "noop": ["--tasks", "5000"],
    "flight": ["--tasks", "500", "--repeats", "1"],
    "latency": ["--tasks", "500", "--repeats", "2"],
    "mapping": ["--elements", "20000"],
    "awaiting": ["--tasks", "2000", "--repeats", "2"],
    "payload": ["--megabytes", "1", "10"],
    "balance": ["--repeats", "1"],
    "memory": ["--tasks", "20000", "--repeats", "1"],
    "idle": ["--repeats", "1"],
    "scale": ["--tasks", "10000"],
    "scaling": ["--repeats", "1"],
    "tree": ["--tasks", "5", "--each", "2", "--repeats", "1"],
    "crowd": ["--tasks", "5000", "--daemons", "100", "--clients", "10", "--repeats", "1"],
    "stopping": ["--repeats", "2", "--storm", "100"],
    "boards": ["--tasks", "200", "--many", "1000", "--repeats", "1"],
    "journal": ["--tasks", "5000", "--computed", "300", "--repeats", "1"],
    "search": ["--budget", "16", "--seconds", "0.02", "--repeats", "1"],
    "scaleout": ["--tasks", "800", "--repeats", "1"],
    "importing": ["--repeats", "2"],
}
"""Name -> what makes it quick."""
PEERLESS = (
    *("awaiting", "scale", "scaling", "tree", "crowd"),
    *("boards", "journal", "search", "scaleout", "importing"),
)
"""Those that do not let peers be chosen."""


def command(name: str, file: Path, quick: bool) -> list[str]:
    """Return the command that runs one."""
    sys.path.insert(0, str(HERE))
    from _peers import QUICK

    made = [sys.executable, str(HERE / f"{name}.py"), "--json", str(file)]
    if quick:
        made += QUESTIONS[name]
        if name not in PEERLESS:
            made += ["--only", *QUICK]
    return made


def environment() -> dict[str, str]:
    """Return ours, with the package to measure beside the benchmarks."""
    path = os.environ.get("PYTHONPATH", "")
    return os.environ | {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{path}".rstrip(os.pathsep)}


def soak(minutes: float, folder: Path) -> int:
    """Keep one pool at work; return whether anything was wrong.  Ctrl-C has it end early."""
    made = [sys.executable, str(HERE / "soak.py"), str(minutes)]
    process = subprocess.Popen([*made, "--json", str(folder / "soak.json")], env=environment())
    while process.poll() is None:
        with suppress(KeyboardInterrupt):  # it has been told, too
            process.wait()
    return process.returncode


def main() -> int:
    """Run them; return how many have failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="name", help=" ".join(QUESTIONS))
    parser.add_argument("--quick", action="store_true", help="smaller, with fewer peers")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="only this")
    parser.add_argument("--out", type=Path, default=Path("benchmarks-out"), help="the folder")
    options = parser.parse_args()
    if unknown := set(options.names) - set(QUESTIONS):
        parser.error(f"no such benchmark: {' '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.soak is not None:
        return soak(options.soak, options.out)
    failed = []
    for name in options.names or QUESTIONS:
        made = command(name, options.out / f"{name}.json", options.quick)
        if subprocess.run(made, env=environment()).returncode:
            failed.append(name)
        print(flush=True)
    draw = [sys.executable, str(HERE / "plots.py"), str(options.out)]
    if subprocess.run(draw).returncode:
        failed.append("plots")
    if failed:
        print(f"failed: {' '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
