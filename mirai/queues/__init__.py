"""What workers pull from, without a pool that deals it out: queues in a file, and boards.

A *queue* is calls in one file on a shared folder, worked on by whoever opens it:

    with Queue.open("job.queue") as queue:
        if not queue:
            queue.map(fit, rows)
        queue.join(workers=4)
        values = queue.collect()

A *board* is a table of tasks that managers and workers share, on Redis or in a dispatcher; workers
may add to it themselves, and read what others have found:

    with Board("redis://localhost") as board:
        board.start_workers(fit, 4)
        board.push([{"x": 1}, {"x": 2}])
        board.wait()
        print(board.frame())
"""

from dispatcher.boards import Tally, TaskState, Worker, WorkerState
from mirai._errors import BoardError, LeaseLost, NotRunning, StoreError
from mirai.queues.boards._board import Board
from mirai.queues.boards._rows import TaskRow, Workers
from mirai.queues.boards._values import Large
from mirai.queues.boards._worker import BoardTask, BoardWorker
from mirai.queues.files._lease import Lease
from mirai.queues.files._queue import Queue
from mirai.queues.files._result import Counts, QueueResult, State

__all__ = [
    "Board",
    "BoardError",
    "BoardTask",
    "BoardWorker",
    "Counts",
    "Large",
    "Lease",
    "LeaseLost",
    "NotRunning",
    "Queue",
    "QueueResult",
    "State",
    "StoreError",
    "Tally",
    "TaskRow",
    "TaskState",
    "Worker",
    "WorkerState",
    "Workers",
]
