"""What a controller knows of its tasks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mirai.controllers import Status
from mirai.controllers._book import Book


@dataclass(eq=False)
class Task:
    name: str
    is_claimed: bool = False
    is_drawn: bool = False
    is_over: bool = False


def taken(book: Book) -> Task | None:
    """Take what is the first."""
    task = book.first()
    assert task is None or book.remove(task)
    return task  # type: ignore[return-value]


def added(book: Book, *names: str) -> list[Task]:
    tasks = [Task(name) for name in names]
    for task in tasks:
        book.add(task)
    return tasks


class TestNames:
    def test_a_name_is_taken_until_its_task_was_popped(self) -> None:
        book = Book()
        [task] = added(book, "a")
        with pytest.raises(ValueError, match="'a' is there already"):
            book.add(Task("a"))
        assert book.counts() == (1, 0, 0)  # the refused one has left nothing
        book.resolve(task, Status.SUCCESS)
        with pytest.raises(ValueError, match="'a' is there already"):
            book.add(Task("a"))
        assert taken(book) is task
        added(book, "a")

    def test_a_drawn_name_is_nobodys(self) -> None:
        book = Book()
        added(book, "f-1", "f-3")
        assert [book.draw_name("f") for _ in range(2)] == ["f-2", "f-4"]

    def test_what_could_not_be_sent_is_forgotten(self) -> None:
        book = Book()
        [task] = added(book, "a")
        book.withdraw(task)
        assert (book.counts(), book.names) == ((0, 0, 0), {})
        book.withdraw(task)
        book.resolve(task, Status.SUCCESS)  # it was sent after all, before Ctrl-C
        assert (book.counts(), book.names) == ((0, 0, 0), {})

    def test_what_has_ended_is_not_withdrawn(self) -> None:
        book = Book()
        [task] = added(book, "a")
        book.resolve(task, Status.SUCCESS)
        book.withdraw(task)
        book.resolve(task, Status.ERROR)
        assert book.counts() == (0, 1, 1)
        assert taken(book) is task

    def test_that_of_a_claimed_task_is_free_at_its_end(self) -> None:
        book, task = Book(), Task("a", is_claimed=True)
        book.add(task)
        book.resolve(task, Status.SUCCESS)
        assert (book.counts(), book.first()) == ((0, 0, 1), None)
        added(book, "a")


class TestCounts:
    def test_of_what_was_pushed_has_ended_and_was_taken(self) -> None:
        book = Book()
        a, b, c = added(book, "a", "b", "c")
        book.resolve(b, Status.ERROR)
        book.resolve(a, Status.SUCCESS)
        assert book.counts() == (1, 2, 2)
        assert [taken(book), taken(book), taken(book)] == [b, a, None]
        assert not book.remove(b), "somebody else has it"
        assert book.counts() == (1, 0, 2)
        book.resolve(c, Status.CANCEL)
        summary = book.summary("it")
        assert (summary.tasks, summary.success, summary.error, summary.cancel) == (3, 1, 1, 1)

    def test_the_summary_in_words(self) -> None:
        book = Book()
        a, _ = added(book, "a", "b")
        book.resolve(a, Status.TIMEOUT)
        book.looked_at(1.5, 2)
        text = "it: 1 tasks have ended (1 timeout) after 1.5 s of work, with 2 warnings; 1 to come"
        assert str(book.summary("it")) == text


class TestCrashes:
    def test_are_counted_while_they_come_in_a_row(self) -> None:
        book = Book()
        for count in (1, 2):
            [task] = added(book, "a")
            book.failed_once(task, Status.CRASH)
            book.resolve(task, Status.CRASH)
            taken(book)
            assert book.crashes["a"] == count
        [task] = added(book, "a")
        book.resolve(task, Status.SUCCESS)
        assert "a" not in book.crashes

    def test_an_error_between_two_ends_the_row(self) -> None:
        book = Book()
        [task] = added(book, "a")
        book.failed_once(task, Status.CRASH)
        book.failed_once(task, Status.ERROR)
        book.failed_once(task, Status.CRASH)
        assert book.crashes["a"] == 1

    def test_those_of_a_drawn_name_are_forgotten_with_the_task(self) -> None:
        book, task = Book(), Task("f-1", is_drawn=True)
        book.add(task)
        book.failed_once(task, Status.CRASH)
        assert book.crashes["f-1"] == 1
        book.resolve(task, Status.CRASH)
        assert not book.crashes


def test_a_success_that_cannot_be_read_is_an_error() -> None:
    book = Book()
    [task] = added(book, "a")
    book.resolve(task, Status.SUCCESS)
    book.looked_at(0.0, 0, unreadable=True)
    summary = book.summary("it")
    assert (summary.success, summary.error, summary.tasks) == (0, 1, 1)


def test_the_backlog_is_first_in_first_out_and_no_more_than_there_is_room_for() -> None:
    book = Book()
    book.backlog.extend("abc")
    assert book.pop_backlog(-1) == []
    assert book.pop_backlog(2) == ["a", "b"]
    assert book.pop_backlog(9) == ["c"]
