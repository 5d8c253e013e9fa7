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
from mirai.launchers.aws_batch import AWSBatchLauncher
from mirai.launchers.command import CommandLauncher
from mirai.launchers.dask import DaskLauncher
from mirai.launchers.http import HTTPLauncher
from mirai.launchers.kubernetes import KubernetesLauncher
from mirai.launchers.local import LocalLauncher
from mirai.launchers.ray import RayLauncher
from mirai.launchers.slurm import SlurmLauncher
from mirai.launchers.ssh import SSHLauncher

__all__ = [
    "AWSBatchLauncher",
    "BatchLauncher",
    "CommandLauncher",
    "DaskLauncher",
    "HTTPLauncher",
    "Handle",
    "KubernetesLauncher",
    "Launcher",
    "LocalLauncher",
    "Order",
    "Phase",
    "RayLauncher",
    "SSHLauncher",
    "SlurmLauncher",
    "State",
    "launcher_class",
]
