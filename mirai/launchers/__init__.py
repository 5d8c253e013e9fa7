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
from mirai.launchers.executor import ExecutorLauncher
from mirai.launchers.htcondor import HTCondorLauncher
from mirai.launchers.http import HTTPLauncher
from mirai.launchers.kubernetes import KubernetesLauncher
from mirai.launchers.local import LocalLauncher
from mirai.launchers.lsf import LSFLauncher
from mirai.launchers.pbs import PBSLauncher
from mirai.launchers.ray import RayLauncher
from mirai.launchers.sge import SGELauncher
from mirai.launchers.slurm import SlurmLauncher
from mirai.launchers.ssh import SSHLauncher
from mirai.launchers.thread import ThreadLauncher
from mirai.launchers.torque import TorqueLauncher

__all__ = [
    "AWSBatchLauncher",
    "BatchLauncher",
    "CommandLauncher",
    "DaskLauncher",
    "ExecutorLauncher",
    "HTCondorLauncher",
    "HTTPLauncher",
    "Handle",
    "KubernetesLauncher",
    "LSFLauncher",
    "Launcher",
    "LocalLauncher",
    "Order",
    "PBSLauncher",
    "Phase",
    "RayLauncher",
    "SGELauncher",
    "SSHLauncher",
    "SlurmLauncher",
    "State",
    "ThreadLauncher",
    "TorqueLauncher",
    "launcher_class",
]
