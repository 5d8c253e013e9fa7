"""Controllers: tasks that are pushed and popped, and workers that come and go with the work.

from mirai.controllers import Controller

with Controller(workers=4) as controller:
    controller.push(fit, data)
    result = controller.pop(timeout=None)
"""

from mirai._errors import StoreError
from mirai.controllers._book import Summary
from mirai.controllers._controller import AsyncController, Controller
from mirai.controllers._group import AsyncControllerGroup, ControllerGroup
from mirai.controllers._metrics import (
    MetricsLog,
    MetricsSummary,
    Sample,
    Samples,
    Usage,
    read_metrics,
)
from mirai.controllers._refs import Ref
from mirai.controllers._result import Attempt, Results, TaskResult, TasksFailed
from mirai.controllers._retry import Retry
from mirai.controllers._status import Status
from mirai.controllers._store import FolderStore, Store, open_store

__all__ = [
    "AsyncController",
    "AsyncControllerGroup",
    "Attempt",
    "Controller",
    "ControllerGroup",
    "FolderStore",
    "MetricsLog",
    "MetricsSummary",
    "Ref",
    "Results",
    "Retry",
    "Sample",
    "Samples",
    "Status",
    "Store",
    "StoreError",
    "Summary",
    "TaskResult",
    "TasksFailed",
    "Usage",
    "open_store",
    "read_metrics",
]
