"""The queue: clients take turns; a client's jobs come by priority, then by age."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.jobs import Estimate, FunctionEntry, Job
from dispatcher.messages import Function, Task
from dispatcher.queue import Queue

ENTRY = FunctionEntry(Function(1, "f", b""), Estimate())


def job(
    key: int, client: int = 1, priority: int = 0, tags: tuple[str, ...] = (), depth: int = 0
) -> Job:
    each = Job(key, client, ENTRY, Task(key, 1, b"", (), priority, tags=tags))
    each.depth = depth
    return each


def filled(*jobs: Job) -> Queue:
    queue = Queue()
    for each in jobs:
        queue.push(each)
    return queue


def pop(queue: Queue, *args: Any, **more: Any) -> Job | None:
    """Pop a job, which is its client's turn."""
    popped = queue.pop(*args, **more)
    if popped is not None:
        queue.charge(popped, 0.0)
    return popped


def drain(queue: Queue) -> list[int]:
    """Pop all that waits, and return the keys; the length must go down by one each time."""
    keys = []
    while queue:
        left = len(queue)
        popped = pop(queue)
        assert popped is not None
        assert not popped.waiting
        assert len(queue) == left - 1
        keys.append(popped.key)
    assert queue.pop() is None
    return keys


def test_an_empty_queue_gives_nothing() -> None:
    assert Queue().pop() is None
    assert len(Queue()) == 0


def test_first_in_first_out() -> None:
    assert drain(filled(*map(job, range(1, 6)))) == [1, 2, 3, 4, 5]


def test_a_pushed_job_knows_that_it_waits() -> None:
    each = job(1)
    queue = filled(each)
    assert each.waiting
    assert queue.pop() is each
    assert not each.waiting


def test_clients_take_turns() -> None:
    queue = filled(*[job(key, client=1) for key in range(1, 6)], job(6, client=2), job(7, client=3))
    assert drain(queue) == [1, 6, 7, 2, 3, 4, 5]


def test_a_turn_is_so_many_seconds_of_work() -> None:
    queue = Queue(turn=1.0)
    for each in [*[job(key, client=1) for key in range(1, 6)], *[job(key, 2) for key in (6, 7)]]:
        queue.push(each)
    order = []
    for seconds in (0.4, 0.4, 0.4, 2.0, 0.5, 0.5, 2.0):
        popped = queue.pop()
        assert popped is not None
        queue.charge(popped, seconds)
        order.append(popped.key)
    assert order == [1, 2, 3, 6, 4, 5, 7]


def test_whether_others_wait_too_is_known() -> None:
    first, second = job(1), job(2)
    queue = filled(first, second)
    assert queue.pop() is first
    assert not queue.has_rivals(first)
    queue.push(job(3, client=2, depth=1))
    assert not queue.has_rivals(first)
    queue.push(job(4, client=2))
    assert queue.has_rivals(first)
    assert queue.pop() is second
    assert queue.has_rivals(second)


def test_a_job_that_has_lost_its_head_keeps_its_place() -> None:
    queue = Queue()
    run = Job(1, 1, ENTRY, Task(1, 1, b"", following=(b"",) * 9))
    queue.put_back(run)
    queue.push(job(20))
    for count in (2, 3):  # twice, so that what is known of its place is wrong once more
        queue.add_head(run.behead(count))
    keys = []
    while (popped := queue.pop()) is not None:
        keys += popped.keys
    assert keys == [*range(1, 11), 20]


def test_a_late_client_waits_for_one_turn_only() -> None:
    queue = filled(*[job(key, client=1) for key in range(1, 1_001)])
    assert [pop(queue).key for _ in range(3)] == [1, 2, 3]  # type: ignore[union-attr]
    queue.push(job(2_000, client=2))
    popped = [pop(queue), pop(queue)]
    assert 2_000 in [each.key for each in popped if each is not None]


def test_a_clients_priority_is_against_its_own_jobs_only() -> None:
    queue = filled(job(1, 1), job(2, 2, priority=9), job(3, 2, priority=10), job(4, 1, priority=-1))
    assert drain(queue) == [1, 3, 4, 2]


def test_higher_priority_first_then_age() -> None:
    queue = filled(job(1), job(2, priority=5), job(3), job(4, priority=5), job(5, priority=-5))
    assert drain(queue) == [2, 4, 1, 3, 5]


def test_a_priority_that_comes_back_after_it_was_used_up() -> None:
    queue = filled(job(1, priority=5), job(2))
    assert queue.pop().key == 1  # type: ignore[union-attr]
    queue.push(job(3, priority=5))
    assert drain(queue) == [3, 2]


def test_what_is_put_back_takes_its_old_place() -> None:
    jobs = [job(key) for key in range(1, 7)]
    queue = filled(*jobs)
    for _ in range(4):
        queue.pop()
    for index in (2, 0, 3):
        queue.put_back(jobs[index])
    assert drain(queue) == [1, 3, 4, 5, 6]


def test_what_is_put_back_into_an_empty_queue() -> None:
    each = job(1)
    queue = filled(each)
    queue.pop()
    queue.put_back(each)
    assert each.waiting
    assert drain(queue) == [1]


def test_a_job_that_was_put_back_keeps_its_priority() -> None:
    low, high = job(1), job(2, priority=1)
    queue = filled(low, high)
    queue.pop()
    queue.put_back(high)
    assert drain(queue) == [2, 1]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_what_is_discarded_does_not_come(index: int) -> None:
    jobs = [job(key) for key in (1, 2, 3)]
    queue = filled(*jobs)
    queue.discard(jobs[index])
    assert not jobs[index].waiting
    assert drain(queue) == [key for key in (1, 2, 3) if key != index + 1]


def test_what_was_put_back_can_be_discarded() -> None:
    jobs = [job(key) for key in (1, 2, 3)]
    queue = filled(*jobs)
    queue.pop()
    queue.put_back(jobs[0])
    queue.discard(jobs[0])
    assert drain(queue) == [2, 3]


def test_a_client_whose_jobs_are_all_discarded_gets_no_turn() -> None:
    mine, others = job(1, 1), job(2, 2)
    queue = filled(mine, others)
    queue.discard(mine)
    assert drain(queue) == [2]


def test_discarded_jobs_do_not_pile_up() -> None:
    """Many jobs come and are cancelled while nobody pops: the queue must let go of them."""
    queue = Queue()
    kept = [job(key) for key in range(1, 11)]
    for each in kept:
        queue.push(each)
    queue.pop()
    queue.put_back(kept[0])
    for key in range(11, 5_000):
        each = job(key, priority=key % 3)
        queue.push(each)
        queue.discard(each)
    held = sum(
        len(lane.fresh) + len(lane.returned)
        for level in queue._levels.values()
        for backlog in level.backlogs.values()
        for lane in backlog.lanes.values()
    )
    assert held <= 10 + 65
    assert drain(queue) == [each.key for each in kept]


# ── against a model ──────────────────────────────────────────────────────────────────────


class Model:
    """The same contract, said in the plainest way: a list, searched from end to end."""

    def __init__(self) -> None:
        self.waiting: list[Job] = []
        self.turns: dict[int, list[int]] = {}  # by depth
        self.deepest_first = False

    def add(self, each: Job) -> None:
        self.waiting.append(each)
        turns = self.turns.setdefault(each.depth, [])
        if each.client not in turns:
            turns.append(each.client)

    def remove(self, each: Job) -> None:
        self.waiting.remove(each)
        if not self._of(each.depth, each.client):
            self.turns[each.depth].remove(each.client)

    def pop(self, carried: frozenset[str], nested: bool) -> Job | None:
        depths = sorted({each.depth for each in self.waiting}, reverse=True)
        if nested:
            depths = [depth for depth in depths if depth]
        elif depths and depths[-1] == 0:
            self.deepest_first = not self.deepest_first
            depths = depths if self.deepest_first else [0, *depths[:-1]]
        for depth in depths:
            for client in list(self.turns[depth]):
                self.turns[depth].remove(client)
                self.turns[depth].append(client)
                mine = [each for each in self._of(depth, client) if carried >= {*each.task.tags}]
                if mine:
                    best = min(mine, key=lambda each: (-each.task.priority, each.key))
                    self.remove(best)
                    return best
        return None

    def _of(self, depth: int, client: int) -> list[Job]:
        return [each for each in self.waiting if (each.depth, each.client) == (depth, client)]


TAGS = st.sampled_from([(), (), ("a",), ("b",), ("a", "b")])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "push", "pop", "pop nested", "put_back", "discard"]),
        st.integers(1, 3),
        st.integers(-1, 1),
        TAGS,
        st.integers(0, 2),
        st.integers(0, 1_000),
    ),
    max_size=120,
)
Step = tuple[str, int, int, tuple[str, ...], int, int]


@settings(max_examples=300)
@given(STEPS, st.integers(0, 300))
def test_it_does_what_the_model_does(steps: list[Step], churn: int) -> None:
    queue, model, out = Queue(), Model(), []
    for key, (step, client, priority, tags, depth, pick) in enumerate(steps, 1):
        if step == "push":
            each = job(key, client, priority, tags, depth)
            queue.push(each)
            model.add(each)
        elif step.startswith("pop"):
            nested = step == "pop nested"
            popped = pop(queue, frozenset(tags), nested=nested)
            assert popped is model.pop(frozenset(tags), nested)
            if popped is not None:
                out.append(popped)
        elif step == "put_back" and out:
            each = out.pop(pick % len(out))
            queue.put_back(each)
            model.add(each)
        elif step == "discard" and model.waiting:
            each = model.waiting[pick % len(model.waiting)]
            model.remove(each)
            queue.discard(each)
        assert len(queue) == len(model.waiting)
        assert queue.has_nested() == any(each.depth for each in model.waiting)
    for key in range(churn):  # enough to bring about a compaction, in some examples
        each = job(10_000 + key, client=4)
        queue.push(each)
        queue.discard(each)
    while (popped := pop(queue, None)) is not None:
        assert popped is model.pop(frozenset({"a", "b"}), nested=False)
    assert not model.waiting


def test_a_job_with_tags_is_for_those_who_carry_them_all() -> None:
    queue = filled(job(1, tags=("a", "b")), job(2, tags=("a",)), job(3))
    assert queue.pop(frozenset({"a"})).key == 2  # type: ignore[union-attr]
    assert queue.pop(frozenset({"a"})).key == 3  # type: ignore[union-attr]
    assert queue.pop(frozenset({"a"})) is None
    assert queue.pop(frozenset({"a", "b", "c"})).key == 1  # type: ignore[union-attr]


def test_the_deepest_and_the_outermost_take_turns() -> None:
    queue = filled(job(1), job(2, depth=1), job(3, depth=2), job(4, depth=1), job(5), job(6))
    assert drain(queue) == [3, 1, 2, 5, 4, 6]


def test_only_nested_jobs_can_be_asked_for() -> None:
    queue = filled(job(1), job(2, depth=1))
    assert queue.pop(nested=True).key == 2  # type: ignore[union-attr]
    assert queue.pop(nested=True) is None


def test_many_priorities_at_once() -> None:
    """Each has a lane of its own; lanes come and go without harm."""
    keys = random.Random(1).sample(range(1, 2_001), 2_000)
    queue = filled(*[job(key, priority=-keys[key - 1]) for key in range(1, 2_001)])
    assert drain(queue) == sorted(range(1, 2_001), key=lambda key: keys[key - 1])
