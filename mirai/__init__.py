"""Awaitable futures, evaluated by persistent processes over ZeroMQ.

from mirai import mirai, daemons

with daemons(4):
    m = mirai(fit, data, depth=3)
    model = m.result()                # or: await m
"""

from dispatcher import __version__ as __version__
from mirai._addresses import host_url, local_addresses
from mirai._budget import Memory
from mirai._errors import (
    AuthenticationError,
    DaemonCrashed,
    DispatcherLost,
    FunctionChanged,
    LaunchError,
    MiraiError,
    ProtocolError,
    QueueFull,
    RemoteError,
    SerializationError,
    TaskCancelled,
    TaskTimeout,
)
from mirai._future import Mirai
from mirai._job import Job, JobStatus, JournalStatus
from mirai._map import MiraiDict, MiraiMap, MiraiStream
from mirai._mirai import everywhere, mirai, mirai_map, race, try_mirai
from mirai._pool import Daemons
from mirai._profiles import (
    connect,
    daemons,
    job,
    on_daemon,
    register_serial,
    status,
    use_profile,
)
from mirai._serial import SerialConfig
from mirai._status import Status
from mirai._story import Story
from mirai._streams import task_generator

__all__ = [
    "AuthenticationError",
    "DaemonCrashed",
    "Daemons",
    "DispatcherLost",
    "FunctionChanged",
    "Job",
    "JobStatus",
    "JournalStatus",
    "LaunchError",
    "Memory",
    "Mirai",
    "MiraiDict",
    "MiraiError",
    "MiraiMap",
    "MiraiStream",
    "ProtocolError",
    "QueueFull",
    "RemoteError",
    "SerialConfig",
    "SerializationError",
    "Status",
    "Story",
    "TaskCancelled",
    "TaskTimeout",
    "connect",
    "daemons",
    "everywhere",
    "host_url",
    "job",
    "local_addresses",
    "mirai",
    "mirai_map",
    "on_daemon",
    "race",
    "register_serial",
    "status",
    "task_generator",
    "try_mirai",
    "use_profile",
]
