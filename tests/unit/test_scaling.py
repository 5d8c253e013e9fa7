"""How many workers there are to be: up with demand, and down when it has been lower for long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mirai.controllers.scaling import Choice, Crew, Past, Policy, choose, share_out


class Play:
    """A crew that is always as large as was chosen at the last look."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.past = Past()
        self.now = 0.0
        self.workers = 0
        self.tasks = 0
        self.again: float | None = None
        self.launches: list[int] = []
        """How many were launched, each time."""
        self.leavings: list[tuple[float, int]] = []
        """When some were let go, and how many stayed."""

    def look(self, tasks: int) -> Choice:
        """Choose once."""
        choice = choose(tasks, self.workers, self.now, self.policy, self.past)
        if choice.count > self.workers:
            self.launches.append(choice.count - self.workers)
        elif choice.count < self.workers:
            self.leavings.append((self.now, choice.count))
        self.tasks, self.workers, self.again = tasks, choice.count, choice.again
        self.past = choice.past
        return choice

    def wait(self, seconds: float) -> None:
        """Let time go by; look whenever that was asked for."""
        until = self.now + seconds
        while self.again is not None and self.again <= until:
            self.now = self.again
            self.look(self.tasks)
        self.now = until


def play(policy: Policy, *demand: tuple[float, int]) -> Play:
    """Play so many tasks, each for so many seconds."""
    made = Play(policy)
    for seconds, tasks in demand:
        made.look(tasks)
        made.wait(seconds)
    return made


# ── examples ─────────────────────────────────────────────────────────────────────────────


def test_there_are_as_many_as_tasks_but_no_more_than_may_be() -> None:
    it = Play(Policy(most=3))
    assert [it.look(tasks).count for tasks in (0, 1, 2, 3, 4, 1_000_000)] == [0, 1, 2, 3, 3, 3]
    assert it.launches == [1, 1, 1]


def test_so_many_are_always_there() -> None:
    it = play(Policy(most=5, least=2, idle_time=10.0), (1.0, 0), (1.0, 4), (100.0, 0))
    assert it.launches == [2, 2]
    assert it.leavings == [(12.0, 2)]


def test_they_stay_through_a_lull() -> None:
    it = play(Policy(most=5, idle_time=10.0), (1.0, 5), (9.9, 0), (1.0, 5), (9.9, 1), (1.0, 5))
    assert it.launches == [5]
    assert it.leavings == []


def test_they_are_let_go_when_demand_has_been_lower_for_as_long_as_one_may_idle() -> None:
    it = play(Policy(most=5, idle_time=10.0), (1.0, 5), (9.5, 0))
    assert (it.workers, it.again) == (5, 11.0)
    it.wait(0.5)
    assert (it.workers, it.again) == (0, None)


def test_as_many_stay_as_were_in_use_at_some_time_of_that() -> None:
    """Five, then three for a moment, then one."""
    it = play(Policy(most=5, idle_time=10.0), (1.0, 5), (4.0, 1), (1.0, 3), (100.0, 1))
    assert it.leavings == [(11.0, 3), (16.0, 1)]


def test_nobody_is_launched_for_a_peak_that_is_over() -> None:
    it = play(Policy(most=5, idle_time=10.0), (1.0, 5), (1.0, 1))
    it.workers = 0  # all have ended
    assert it.look(1).count == 1


def test_a_look_is_asked_for_when_it_changes_something() -> None:
    """Not when a peak is forgotten that was higher than there are workers."""
    it = play(Policy(most=9, idle_time=10.0), (1.0, 9), (1.0, 4), (1.0, 0))
    it.workers = 3
    assert it.look(0).again == 12.0


def test_demand_may_grow_for_a_moment_so_that_one_launch_brings_many() -> None:
    it = Play(Policy(most=100, gather=1.0))
    for tasks in range(1, 11):
        choice = it.look(tasks)
        assert choice.gathers
        assert (choice.count, choice.again) == (0, 1.0)
        it.wait(0.05)
    it.wait(1.0)
    assert it.launches == [10]
    assert not it.look(10).gathers


def test_nobody_waits_for_more_than_there_may_be() -> None:
    it = Play(Policy(most=3, gather=1.0))
    assert it.look(2).gathers
    assert it.look(3).count == 3


def test_those_that_are_always_there_do_not_wait_for_company() -> None:
    assert Play(Policy(most=3, least=1, gather=1.0)).look(0).count == 1


def test_while_many_are_launched_no_more_are_waited_for() -> None:
    """The choice stands until the workers are on their way, which takes a platform some time."""
    it = Play(Policy(most=100, gather=1.0))
    it.look(5)
    it.wait(1.0)
    it.workers = 0
    assert [it.look(tasks).count for tasks in (5, 6)] == [5, 6]


GPU, CPU = ("gpu",), ()


@pytest.mark.parametrize(
    ("demand", "crews", "shares"),
    [
        ({CPU: 3}, [(CPU, 0, 5), (CPU, 0, 5)], [3, 0]),  # the first crew's
        ({CPU: 7}, [(CPU, 0, 5), (CPU, 0, 5)], [5, 2]),  # then the next one's
        ({CPU: 3}, [(CPU, 0, 5), (CPU, 2, 5)], [1, 2]),  # but first of those who are there
        ({CPU: 13}, [(CPU, 0, 5), (CPU, 0, 5)], [8, 5]),  # more than there can be
        ({GPU: 2, CPU: 2}, [(GPU, 2, 2), (CPU, 0, 2)], [2, 2]),  # what only one can do, first
        ({GPU: 1, CPU: 9}, [(GPU, 0, 1), (CPU, 0, 2)], [8, 2]),
        ({("tpu",): 9}, [(GPU, 0, 1), (CPU, 0, 2)], [0, 0]),  # what nobody can do
        ({("a",): 1, ("b",): 1}, [(("a", "b"), 0, 1), (("a",), 0, 1)], [1, 1]),
        ({}, [(CPU, 3, 5)], [0]),
    ],
)
def test_whose_tasks_they_are(
    demand: Mapping[tuple[str, ...], int],
    crews: Sequence[tuple[tuple[str, ...], int, int]],
    shares: list[int],
) -> None:
    made = [Crew(frozenset(tags), workers, most) for tags, workers, most in crews]
    assert share_out(demand, made) == shares


# ── properties ───────────────────────────────────────────────────────────────────────────

SECONDS = st.integers(0, 40).map(float)
COUNTS = st.integers(0, 15)
POLICIES = st.builds(
    lambda most, least, idle_time, gather: Policy(most, min(least, most), idle_time, gather),
    st.integers(1, 12),
    COUNTS,
    SECONDS,
    st.sampled_from([0.0, 0.0, 1.0, 5.0]),
)
HISTORIES = st.lists(st.tuples(SECONDS, COUNTS), max_size=12)
LOSSES = st.lists(st.tuples(SECONDS, COUNTS, st.integers(0, 5)), max_size=12)


def used(tasks: int, policy: Policy) -> int:
    return min(tasks, policy.most)


def lossy(policy: Policy, history: Sequence[tuple[float, int, int]]) -> Play:
    """Play a history in which some workers end by themselves."""
    it = Play(policy)
    for seconds, tasks, losses in history:
        it.look(tasks)
        it.wait(seconds)
        it.workers = max(0, it.workers - losses)
    return it


@given(POLICIES, LOSSES, COUNTS)
def test_there_are_never_too_many_nor_too_few(
    policy: Policy, history: list[tuple[float, int, int]], tasks: int
) -> None:
    it = lossy(policy, history)
    before = it.workers
    choice = it.look(tasks)
    assert policy.least <= choice.count <= policy.most
    if choice.gathers:
        assert choice.count == before < used(tasks, policy)
    else:
        assert choice.count >= used(tasks, policy), "who is needed is not let go, nor cancelled"
    highest = max([tasks, *(tasks for _, tasks, _ in history)])
    assert choice.count <= max(policy.least, highest)


@given(POLICIES, LOSSES, COUNTS)
def test_who_is_needed_is_not_let_go_in_the_meantime_either(
    policy: Policy, history: list[tuple[float, int, int]], tasks: int
) -> None:
    it = lossy(policy, history)
    before, done = it.workers, len(it.leavings)
    it.look(tasks)
    it.wait(1_000.0)
    floor = min(before, max(policy.least, used(tasks, policy)))
    assert all(stay >= floor for _, stay in it.leavings[done:])
    assert it.workers == max(policy.least, used(tasks, policy)), "in the end, just those"
    assert it.again is None


@given(POLICIES, LOSSES, COUNTS, st.floats(0, 1, exclude_max=True))
def test_it_is_asked_for_just_those_looks_that_change_something(
    policy: Policy, history: list[tuple[float, int, int]], tasks: int, part: float
) -> None:
    it = lossy(policy, history)
    choice = it.look(tasks)
    again = it.now + 1_000.0 if choice.again is None else choice.again
    assert again > it.now
    between = it.now + part * (again - it.now)
    assume(between < again)
    now_and_then = choose(tasks, choice.count, between, policy, choice.past)
    assert now_and_then.count == choice.count
    assert now_and_then.again == choice.again
    if choice.again is not None:
        assert choose(tasks, choice.count, again, policy, choice.past).count != choice.count
        later = choose(tasks, choice.count, again, policy, now_and_then.past)
        assert later.count != choice.count, "looks in between put nothing off"


@given(POLICIES, HISTORIES)
def test_there_are_as_many_as_were_needed_at_once_within_the_idle_time(
    policy: Policy, history: list[tuple[float, int]]
) -> None:
    """Against the plainest way to say so: the highest demand of the window that ends now."""
    assume(not policy.gather)
    it, spells, now = Play(policy), list[tuple[float, int]](), 0.0
    for seconds, tasks in [*history, (100.0, 0)]:
        needed = max(policy.least, used(tasks, policy))
        it.look(tasks)
        for part in (0.0, seconds / 3, seconds / 2):
            it.wait(now + part - it.now)
            recent = [count for end, count in spells if end > it.now - policy.idle_time]
            assert it.workers == max([needed, *recent])
        it.wait(now + seconds - it.now)
        now += seconds
        spells.append((now, needed))


@given(
    st.integers(2, 12),
    st.lists(st.tuples(st.lists(COUNTS, min_size=1, max_size=4), SECONDS), max_size=8),
)
def test_demand_that_goes_up_and_down_fast_moves_nobody(
    peak: int, waves: list[tuple[list[int], float]]
) -> None:
    """Each wave comes back to the peak before its lull has lasted for the idle time."""
    it = play(Policy(most=20, idle_time=10.0), (1.0, peak))
    for lull, crest in waves:
        for tasks in lull:
            it.look(min(tasks, peak))
            it.wait(9.9 / len(lull))
        it.look(peak)
        it.wait(crest)
    assert it.launches == [peak]
    assert it.leavings == []


@given(st.integers(1, 12), COUNTS, SECONDS)
def test_after_the_idle_time_there_are_just_those_that_are_needed(
    peak: int, tasks: int, idle_time: float
) -> None:
    assume(tasks < peak)
    it = play(Policy(most=12, idle_time=idle_time), (5.0, peak), (1_000.0, tasks))
    assert it.leavings == [(5.0 + idle_time, tasks)]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=20))
def test_what_comes_within_a_moment_is_launched_at_once(pushes: list[int]) -> None:
    it, tasks = Play(Policy(most=100, gather=1.0)), 0
    for count in pushes:
        tasks += count
        it.look(tasks)
        it.wait(0.9 / len(pushes))
    it.wait(5.0)
    assert it.launches == [tasks]


TAGS = st.sets(st.sampled_from("abc")).map(lambda tags: tuple(sorted(tags)))
DEMAND = st.dictionaries(TAGS, st.integers(1, 12), max_size=5)
CREWS = st.lists(
    st.builds(Crew, TAGS.map(frozenset), st.integers(0, 6), st.integers(1, 6)), max_size=4
)


@given(DEMAND, CREWS)
def test_each_task_is_one_crews_that_can_do_it(
    demand: dict[tuple[str, ...], int], crews: list[Crew]
) -> None:
    shares = share_out(demand, crews)
    fit = {tags: [crew.tags.issuperset(tags) for crew in crews] for tags in demand}
    assert sum(shares) == sum(count for tags, count in demand.items() if any(fit[tags]))
    for index, share in enumerate(shares):
        assert 0 <= share <= sum(count for tags, count in demand.items() if fit[tags][index])
    for tags, count in demand.items():  # what few can do finds those
        able = [share for share, fits in zip(shares, fit[tags], strict=True) if fits]
        assert not able or sum(able) >= count


@given(DEMAND, CREWS)
def test_a_crew_has_more_tasks_than_it_may_have_workers_only_where_no_other_has_room(
    demand: dict[tuple[str, ...], int], crews: list[Crew]
) -> None:
    shares = share_out(demand, crews)
    roomy = [crew for share, crew in zip(shares, crews, strict=True) if share < crew.most]
    for share, crew in zip(shares, crews, strict=True):
        if share > crew.most:
            mine = [tags for tags in demand if crew.tags.issuperset(tags)]
            assert any(not any(each.tags.issuperset(tags) for each in roomy) for tags in mine)


@given(st.integers(0, 40), CREWS)
def test_those_who_are_there_have_work_before_others_are_launched(
    tasks: int, crews: list[Crew]
) -> None:
    shares = share_out({(): tasks}, crews)
    there = [min(crew.workers, crew.most) for crew in crews]
    pairs = list(zip(shares, there, strict=True))
    if any(share > count for share, count in pairs):
        assert all(share >= count for share, count in pairs)
    if any(share > crew.most for share, crew in zip(shares, crews, strict=True)):
        assert all(share >= crew.most for share, crew in zip(shares, crews, strict=True))


@given(DEMAND, CREWS)
def test_who_has_work_has_it_still_at_the_next_look(
    demand: dict[tuple[str, ...], int], crews: list[Crew]
) -> None:
    """When all have come that were to, nobody else is asked for."""
    shares = share_out(demand, crews)
    come = [
        Crew(crew.tags, max(crew.workers, min(share, crew.most)), crew.most)
        for share, crew in zip(shares, crews, strict=True)
    ]
    later = share_out(demand, come)
    for crew, share in zip(come, later, strict=True):
        assert min(share, crew.most) <= crew.workers
