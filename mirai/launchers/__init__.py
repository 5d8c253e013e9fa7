"""Launchers: they start daemons on other machines, for ``daemons(n, url=..., launcher=...)``."""

from mirai.launchers._base import (
    Handle,
    Launcher,
    Order,
    Phase,
    State,
    launcher_class,
)
from mirai.launchers._batch import BatchLauncher
from mirai.launchers.slurm import SlurmLauncher

__all__ = [
    "BatchLauncher",
    "Handle",
    "Launcher",
    "Order",
    "Phase",
    "SlurmLauncher",
    "State",
    "launcher_class",
]
