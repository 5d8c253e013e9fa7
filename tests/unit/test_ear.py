"""Who listens: the owner of a connection, or a worker to whom it has lent its ear; never both."""

from __future__ import annotations

import threading

import pytest

from mirai import _ear
from mirai._ear import Ear


@pytest.fixture
def ear(monkeypatch: pytest.MonkeyPatch) -> Ear:
    monkeypatch.setattr(_ear, "NAP", 0.0)
    return Ear()


def test_what_is_not_lent_cannot_be_borrowed(ear: Ear) -> None:
    assert not ear.borrow()
    assert not ear.lent


def test_a_worker_that_listens_goes_on_listening(ear: Ear) -> None:
    ear.lend()
    assert ear.borrow()
    assert [ear.nap() for _ in range(3)] == [True] * 3


def test_a_worker_that_is_busy_for_the_whole_of_a_nap_has_had_its_turn(ear: Ear) -> None:
    ear.lend()
    assert not ear.nap()
    assert not ear.borrow()


def test_one_that_has_listened_again_since_has_not(
    ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ear, "NAP", 600)
    ear.lend()
    found: list[bool] = []
    owner = threading.Thread(target=lambda: found.append(ear.nap()))
    while True:  # until it listens while the owner naps: which of both begins is not for us to say
        assert ear.borrow()
        ear.give_back(keep=True)
        if owner.ident is None:
            owner.start()
            continue
        break
    ear.borrow()
    ear.give_back(keep=False)  # wakes the owner, who is to listen
    owner.join(20)
    assert found == [False]


def test_what_the_worker_gives_back_is_the_owners(ear: Ear) -> None:
    ear.lend()
    ear.borrow()
    ear.give_back(keep=False)
    assert not ear.lent
    ear.give_back(keep=False)  # nobody naps
    ear.lend()
    assert ear.borrow()


def test_never_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ear, "NAP", 0.000_01)
    ear = Ear()
    here: list[str] = []
    met: list[str] = []
    heard = threading.Event()

    def listen(who: str) -> None:
        here.append(who)
        if len(here) > 1:
            met.append(who)
        here.remove(who)

    def work() -> None:
        for turn in range(20_000):
            if ear.borrow():
                listen("worker")
                ear.give_back(keep=turn % 3 > 0)
        heard.set()

    worker = threading.Thread(target=work)
    worker.start()
    while not heard.is_set():
        if not (ear.lent and ear.nap()):
            listen("owner")
            ear.lend()
    worker.join()
    assert not met
