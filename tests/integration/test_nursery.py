"""Local daemons: how their end is noticed, and what each of them is given."""

from __future__ import annotations

import os
import signal

import pytest
from conftest import wait_until

from mirai import _process, daemons, mirai, status


class TestTheirEnd:
    def test_is_noticed_where_no_descriptor_tells_of_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        boot = "import os; os.__dict__.pop('pidfd_open', None); " + _process._BOOT
        monkeypatch.setattr(_process, "_BOOT", boot)
        with daemons(1):
            for killed in range(1, 4):
                os.kill(mirai(os.getpid).result(timeout=20), signal.SIGKILL)
                wait_until(lambda killed=killed: status().cumulative == killed + 1)
