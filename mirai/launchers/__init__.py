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
from mirai.launchers.htcondor import HTCondorLauncher
from mirai.launchers.lsf import LSFLauncher
from mirai.launchers.pbs import PBSLauncher
from mirai.launchers.sge import SGELauncher
from mirai.launchers.slurm import SlurmLauncher
from mirai.launchers.torque import TorqueLauncher

__all__ = [
    "BatchLauncher",
    "HTCondorLauncher",
    "Handle",
    "LSFLauncher",
    "Launcher",
    "Order",
    "PBSLauncher",
    "Phase",
    "SGELauncher",
    "SlurmLauncher",
    "State",
    "TorqueLauncher",
    "launcher_class",
]
