"""Workers of a board that propose their own points, beside batches and beside random search.

What is searched are the parameters of a model, kernel ridge regression, for which it errs least on
data that it has not seen; the data are computed here.  That takes milliseconds, so each evaluation
also sleeps, as if there were more data: some much longer than others, by the point alone.

- *own points*: each worker reads what all have found, fits a Gaussian process to it, and evaluates
  the point which that proposes, without waiting for anybody.
- *batches*: the manager does the same for as many points as there are workers, and waits for all
  of them.
- *random*: workers draw their own points, whatever was found.

All begin with the same few random points, and have the same budget of points.  Whoever makes its
own looks at the budget before: so there may be as many points more as there are other workers;
what these have found is left out.  What is drawn is the same each time; who comes first is not, and
so what is proposed out of what others have found differs a little.

The board is in the memory of a dispatcher, or with ``--url`` where that says.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from _surrogate import Array, propose
from _table import Row, parser, show

from mirai import daemons, task_generator
from mirai.queues import Board, BoardTask, BoardWorker, TaskRow

HERE = "mirai://"
RANGES = {"ridge": (-6, 1), "pair": (-1, 2), "square": (-1, 2), "line": (-1, 2), "noise": (-1, 2)}
"""The parameters: how much is smoothed, and the lengths of the columns; all are powers of ten."""
COLUMNS = ("pair", "pair", "square", "line", "line", "noise", "noise")
TRAINING, HELD_BACK = 150, 300
FIRST = 10
"""How many points are drawn before anything is fitted."""
SPREAD = 1.0
"""Of the logarithm of the seconds that an evaluation takes."""

Xs = dict[str, float]
Propose = Callable[[np.random.Generator, Sequence[TaskRow], Sequence[Xs]], Xs]


# ── what is searched ─────────────────────────────────────────────────────────────────────────


def data() -> tuple[Array, Array]:
    """Return rows of numbers, and what is to be learned of each: two columns have no part in it."""
    draw = np.random.default_rng(1)
    rows = draw.random((TRAINING + HELD_BACK, len(COLUMNS)))
    a, b, c, d, e = rows.T[:5]
    target = 10 * np.sin(np.pi * a * b) + 20 * (c - 0.5) ** 2 + 10 * d + 5 * e
    return rows, target - target.mean() + draw.standard_normal(len(rows))


def evaluate(seconds: float, /, **xs: float) -> dict[str, float]:
    """Return the error of a model on what it has not seen, after about so many seconds."""
    rows, target = data()
    scaled = rows / [10 ** xs[column] for column in COLUMNS]
    known, asked = scaled[:TRAINING], scaled[TRAINING:]
    kernel = like(known, known) + 10 ** xs["ridge"] * np.eye(TRAINING)
    predicted = like(asked, known) @ np.linalg.solve(kernel, target[:TRAINING])
    time.sleep(seconds * Random(str(xs)).lognormvariate(0, SPREAD))
    return {"error": float(np.sqrt(((predicted - target[TRAINING:]) ** 2).mean()))}


def like(a: Array, b: Array) -> Array:
    """Return how much rows are like others."""
    return np.exp(-((a[:, None] - b[None]) ** 2).sum(axis=2) / 2)


# ── what is proposed ─────────────────────────────────────────────────────────────────────────


def as_xs(point: Array) -> Xs:
    """Return a point of the unit cube as parameters."""
    return {
        name: float(low + share * (high - low))
        for (name, (low, high)), share in zip(RANGES.items(), point, strict=True)
    }


def as_points(some: Sequence[Xs]) -> Array:
    """Return parameters as points of the unit cube."""
    points = [
        [(xs[name] - low) / (high - low) for name, (low, high) in RANGES.items()] for xs in some
    ]
    return np.array(points).reshape(-1, len(RANGES))


def at_random(draw: np.random.Generator, _found: Sequence[TaskRow], _pending: Sequence[Xs]) -> Xs:
    """Return any parameters."""
    return as_xs(draw.random(len(RANGES)))


def first_points(options: Namespace) -> list[Xs]:
    """Return the points that all searches begin with."""
    draw = np.random.default_rng(options.seed)
    return [at_random(draw, [], []) for _ in range(min(FIRST, options.budget))]


def by_model(draw: np.random.Generator, found: Sequence[TaskRow], pending: Sequence[Xs]) -> Xs:
    """Return the parameters that a model of the error proposes, given what was found."""
    # The logarithm: where the model is bad, how bad does not matter.
    errors = np.log([row.ys["error"] for row in found])
    known = as_points([row.xs for row in found])
    return as_xs(propose(draw, known, errors, as_points(pending)))


# ── searches ─────────────────────────────────────────────────────────────────────────────────


def own_points(budget: int, seconds: float, proposes: Propose, worker: BoardWorker) -> None:
    """Be a worker which evaluates the first points, as long as there are any, and then its own."""
    draw = task_generator()
    found: list[TaskRow] = []

    def make() -> BoardTask | None:
        tally = worker.tally()
        if not worker.goes_on or tally.queued + tally.running + tally.finished >= budget:
            return None
        found.extend(worker.fetch_new())
        return worker.create(
            proposes(draw, found, [row.xs for row in worker.rows(states="running")])
        )

    task = worker.pop()  # it waits until all workers are there
    while task is not None:
        task.finish(evaluate(seconds, **task.xs))
        task = worker.pop(0) or make()


def begin(options: Namespace, first: list[Xs], proposes: Propose, board: Board) -> None:
    """Have workers search by themselves."""
    loop = partial(own_points, options.budget, options.seconds, proposes)
    start(board, options, loop=loop)
    board.push(first)
    board.wait()


def in_batches(options: Namespace, first: list[Xs], board: Board) -> None:
    """Search in batches, each of which waits for its slowest point."""
    draw = np.random.default_rng([options.seed, 1])  # not what has drawn the first points
    start(board, options, fn=partial(evaluate, options.seconds))
    found: list[TaskRow] = []
    while len(found) < options.budget:
        size = min(options.workers, options.budget - len(found))
        batch, first = first[:size], first[size:]
        while len(batch) < size:
            batch.append(by_model(draw, found, batch))
        board.wait(board.push(batch))
        found += board.fetch_new()


SEARCHES: dict[str, Callable[[Namespace, list[Xs], Board], None]] = {
    "own points": lambda options, first, board: begin(options, first, by_model, board),
    "batches": in_batches,
    "random": lambda options, first, board: begin(options, first, at_random, board),
}


def start(board: Board, options: Namespace, **what: Any) -> None:
    """Start workers, and wait until they are there."""
    seeds = {} if options.url == HERE else {"seed": options.seed}
    board.start_workers(n=options.workers, **what, **seeds)
    board.wait_for_workers(options.workers)


@contextmanager
def fresh_board(options: Namespace) -> Iterator[Board]:
    """Have a board with nothing on it, and leave nothing on it."""
    with daemons(options.workers, seed=options.seed), Board(options.url, "search") as board:
        board.reset()
        yield board
        board.reset()


# ── what came of them ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Found:
    """What came of one search."""

    line: list[tuple[float, float]]
    """The least error so far, each time that a point was done: seconds, and the error."""
    points: int
    wall: float
    """Seconds from the first point's begin to the last one's end."""
    idle: float
    """The share of the workers' time in which they evaluated nothing, in %."""

    @classmethod
    def of(cls, rows: list[TaskRow], budget: int, workers: int) -> Found:
        """Return what tasks tell, which have all ended."""
        rows = sorted(rows, key=lambda row: row.ended)
        begun = min(row.started for row in rows)
        best, line = np.inf, []
        for row in rows[:budget]:
            best = min(best, row.ys["error"])
            line.append((row.ended - begun, best))
        wall = rows[-1].ended - begun
        busy = sum(row.ended - row.started for row in rows)
        return cls(line, len(rows), wall, 100 * (1 - busy / (workers * wall)))


def run(who: str, options: Namespace) -> Found:
    """Search once."""
    with fresh_board(options) as board:
        SEARCHES[who](options, first_points(options), board)
        return Found.of(board.rows(states="finished"), options.budget, options.workers)


def rows_of(results: dict[str, list[Found]]) -> list[Row]:
    """Return the table."""
    measures: list[tuple[str, str, Callable[[Found], float]]] = [
        ("least error", "RMSE", lambda found: found.line[-1][1]),
        ("wall time", "s", lambda found: found.wall),
        ("points", "points", lambda found: found.points),
        ("idle workers", "%", lambda found: found.idle),
    ]
    return [
        Row(what, who, [value(found) for found in some], unit)
        for what, unit, value in measures
        for who, some in results.items()
    ]


def arguments() -> ArgumentParser:
    """Return what can be asked for."""
    made = parser(__doc__, repeats=5)
    made.add_argument("--budget", type=int, default=60, help="points (default: 60)")
    made.add_argument("--workers", type=int, default=4, help="(default: 4)")
    made.add_argument("--seconds", type=float, default=0.2, help="of most points (default: 0.2)")
    made.add_argument("--seed", type=int, default=1, help="of the first repeat (default: 1)")
    made.add_argument("--url", default=HERE, help="where the board is (default: a pool of its own)")
    made.add_argument("--plot", type=Path, metavar="FILE", help="draw error against time, a PNG")
    return made


def main() -> None:
    """Search, and print the table."""
    options = arguments().parse_args()
    results: dict[str, list[Found]] = {who: [] for who in SEARCHES}
    for repeat in range(options.repeats):
        for who, some in results.items():
            some.append(run(who, Namespace(**vars(options) | {"seed": options.seed + repeat})))
    lines = {who: [found.line for found in some] for who, some in results.items()}
    title = f"{options.budget} points of about {options.seconds} s, {options.workers} workers"
    show(title, rows_of(results), options.json, lines=lines)
    if options.plot is not None:
        from plots import draw_search, load_pyplot, save

        pyplot = load_pyplot() or sys.exit("no plot: matplotlib is not installed")
        save(draw_search(lines, pyplot), options.plot)


if __name__ == "__main__":
    main()
