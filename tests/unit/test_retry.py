"""When a task runs again, and where."""

from __future__ import annotations

from typing import Any

import pytest

from mirai.controllers import Retry, Status
from mirai.controllers._retry import rung


class TestPause:
    def test_by_default_nothing_runs_twice(self) -> None:
        for status in Status:
            assert Retry().pause([status], OSError()) is None
        assert not Retry()

    @pytest.mark.parametrize(
        ("status", "retry"),
        [
            (Status.CRASH, Retry(crashes=2)),
            (Status.ERROR, Retry(errors=2)),
            (Status.TIMEOUT, Retry(timeouts=2)),
        ],
    )
    def test_each_kind_has_a_budget_of_its_own(self, status: Status, retry: Retry) -> None:
        assert retry.pause([status], OSError()) == 0.0
        assert retry.pause([status] * 2, OSError()) == 0.0
        assert retry.pause([status] * 3, OSError()) is None
        others = set(Status) - {status}
        assert all(retry.pause([other], OSError()) is None for other in others)

    def test_one_kind_does_not_use_up_what_another_has(self) -> None:
        retry = Retry(crashes=1, errors=1)
        assert retry.pause([Status.CRASH, Status.ERROR], OSError()) == 0.0
        assert retry.pause([Status.CRASH, Status.ERROR, Status.CRASH], None) is None

    def test_only_errors_of_the_classes_that_are_named(self) -> None:
        retry = Retry(errors=1, on=(OSError, KeyError))
        assert retry.pause([Status.ERROR], FileNotFoundError()) == 0.0
        assert retry.pause([Status.ERROR], ValueError()) is None
        assert Retry(errors=1, on=OSError).pause([Status.ERROR], OSError()) == 0.0

    def test_the_pause_doubles(self) -> None:
        retry = Retry(errors=9, backoff=0.5)
        pauses = [retry.pause([Status.ERROR] * count, OSError()) for count in (1, 2, 3, 4)]
        assert pauses == [0.5, 1.0, 2.0, 4.0]

    def test_a_cancelled_task_is_never_tried_again(self) -> None:
        retry = Retry(crashes=9, errors=9, timeouts=9)
        assert retry.pause([Status.CANCEL], None) is None


class TestChecks:
    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"crashes": -1}, ValueError),
            ({"errors": True}, TypeError),
            ({"timeouts": 1.5}, TypeError),
            ({"on": "OSError"}, TypeError),
            ({"on": (OSError, int)}, TypeError),
            ({"backoff": -1}, ValueError),
            ({"backoff": float("nan")}, ValueError),
            ({"backoff": "1s"}, TypeError),
        ],
    )
    def test_nonsense_is_refused(self, options: dict[str, Any], error: type[Exception]) -> None:
        with pytest.raises(error):
            Retry(**options)


class TestRung:
    def test_the_first_until_it_has_had_its_crashes(self) -> None:
        assert [rung(crashes, [2, 1]) for crashes in range(5)] == [0, 0, 1, None, None]

    def test_alone(self) -> None:
        assert [rung(crashes, [5]) for crashes in (0, 4, 5)] == [0, 0, None]
