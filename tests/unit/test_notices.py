"""What the log is told of refusals."""

from __future__ import annotations

import pytest

from dispatcher.notices import BURST, INTERVAL, WIDTH, Notices, harmless


def test_it_says_what_and_who_and_why() -> None:
    assert Notices().text("key", "here", "unknown", 5.0) == "key refused: here: unknown"


def test_of_a_flood_only_the_beginning_is_told_and_later_how_much_it_was() -> None:
    notices = Notices()
    told = [notices.text("key", "here", "why", 0.001 * index) for index in range(100)]
    assert [text for text in told if text] == ["key refused: here: why"] * BURST
    assert told[BURST:] == [None] * (100 - BURST)
    assert notices.text("key", "here", "why", INTERVAL * 0.99) is None
    more = 100 - BURST + 1
    text = notices.text("key", "here", "why", INTERVAL)
    assert text == f"key refused: here: why ({more} more like this were not told)"
    assert notices.text("key", "here", "why", INTERVAL) == "key refused: here: why"


def test_a_flood_that_lasts_is_told_of_at_a_steady_rate() -> None:
    notices = Notices()
    told = [notices.text("key", "here", "why", 0.01 * index) for index in range(10_000)]
    assert sum(text is not None for text in told) <= BURST * (100 / INTERVAL + 1)
    assert any(told[-int(INTERVAL * 100) :])


def test_one_kind_does_not_silence_another() -> None:
    notices = Notices()
    for _ in range(100):
        notices.text("key", "here", "why", 0.0)
    assert notices.text("peer", "here", "why", 0.0) == "peer refused: here: why"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("two\nlines\r\a\x1b[2J", "two?lines???[2J"),
        ("\u202eright to left", "?right to left"),
        ("x" * WIDTH, "x" * WIDTH),
        ("x" * (WIDTH + 1), "x" * WIDTH + "…"),
        ("x" * 10**6, "x" * WIDTH + "…"),
    ],
)
def test_what_a_stranger_says_is_made_harmless(text: str, expected: str) -> None:
    assert harmless(text) == expected
    assert Notices().text("peer", text, text, 0.0) == f"peer refused: {expected}: {expected}"
