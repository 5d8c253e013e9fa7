"""Awaitable futures, evaluated by persistent processes over ZeroMQ.

from mirai import mirai, daemons

with daemons(4):
    m = mirai(fit, data, depth=3)
    model = m.result()                # or: await m
"""

from dispatcher import __version__ as __version__
from mirai._errors import (
    AuthenticationError,
    DaemonCrashed,
    DispatcherLost,
    MiraiError,
    ProtocolError,
    QueueFull,
    RemoteError,
    SerializationError,
    TaskCancelled,
    TaskTimeout,
)
from mirai._future import Mirai
from mirai._map import MiraiDict, MiraiMap, MiraiStream
from mirai._mirai import mirai, mirai_map, race
from mirai._pool import Daemons
from mirai._profiles import connect, daemons, on_daemon, status, use_profile
from mirai._status import Status

__all__ = [
    "AuthenticationError",
    "DaemonCrashed",
    "Daemons",
    "DispatcherLost",
    "Mirai",
    "MiraiDict",
    "MiraiError",
    "MiraiMap",
    "MiraiStream",
    "ProtocolError",
    "QueueFull",
    "RemoteError",
    "SerializationError",
    "Status",
    "TaskCancelled",
    "TaskTimeout",
    "connect",
    "daemons",
    "mirai",
    "mirai_map",
    "on_daemon",
    "race",
    "status",
    "use_profile",
]
