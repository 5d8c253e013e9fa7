"""Which file system a path lies in, and whether its files can be locked safely.

What processes of several machines reach at once cannot be trusted with locks or with memory that
is mapped from it: SQLite, LMDB and ``flock`` may then let two in that believe to be alone.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress

NETWORK = {
    "9p",
    "acfs",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "davfs",
    "fuse",  # it does not say of what
    "gfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "panfs",
    "prl_fs",
    "pvfs2",
    "smb2",
    "smb3",
    "smbfs",
    "vboxsf",
    "vmhgfs",
    "wekafs",
}
"""Those that are, or may be, of several machines."""

LOCAL_FUSE = {
    "fuse.bindfs",
    "fuse.ext2",
    "fuse.exfat",
    "fuse.fuse-overlayfs",
    "fuse.fuse2fs",
    "fuse.lxcfs",
    "fuse.mergerfs",
    "fuse.ntfs",
    "fuse.ntfs-3g",
    "fuse.squashfuse",
    "fuse.squashfuse_ll",
    "fuse.unionfs",
}
"""Of those that a process serves, the ones that only pass on what this machine has."""


def kind_of(path: str | os.PathLike[str]) -> str:
    """Return the type of the file system that ``path`` lies in, or would; empty if unknown.

    Only Linux says.
    """
    return kind_in(mounts_for(path), os.path.realpath(path))


def mounts_for(path: str | os.PathLike[str]) -> str:
    """Return what the system tells of its mounts, for a look at ``path``; empty if nothing."""
    if sys.platform != "linux":
        return ""
    with suppress(OSError):
        os.stat(os.path.dirname(os.path.realpath(path)))  # has what is mounted on demand be mounted
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            return mounts.read()
    except OSError:
        return ""


def is_network(kind: str) -> bool:
    """Whether files there may be reached from several machines; one that is unknown is local."""
    return kind in NETWORK or (kind.startswith("fuse.") and kind not in LOCAL_FUSE)


def kind_in(mountinfo: str, path: str) -> str:
    """Return the type of what is mounted where ``path``, an absolute one without links, leads."""
    mount = _mount_in(mountinfo, path)
    return "" if mount is None else mount.kind


def options_in(mountinfo: str, path: str) -> frozenset[str]:
    """Return with which options that is mounted, those of the file system and of the mount."""
    mount = _mount_in(mountinfo, path)
    return frozenset() if mount is None else mount.options


def _mount_in(mountinfo: str, path: str) -> _Mount | None:
    """Return what is mounted where ``path`` leads; None if nothing is told of that.

    It goes from mount to mount as the system does.  The longest mount point would not do: it may
    have been hidden by what was mounted above it later.
    """
    mounts = [_Mount(line) for line in mountinfo.splitlines() if " - " in line]
    ids = {mount.id for mount in mounts}
    inside: dict[str, list[_Mount]] = {}  # id of what it is mounted in; "": nothing that is told of
    for mount in mounts:
        if mount.holds(path):
            known = mount.parent in ids and mount.parent != mount.id
            inside.setdefault(mount.parent if known else "", []).append(mount)
    found, at = None, ""
    while at in inside:
        # the first on the way; of two in one place the later one
        found = min(reversed(inside.pop(at)), key=lambda mount: len(mount.point))
        at = found.id
    return found


class _Mount:
    """One line of what the system tells about mounts."""

    __slots__ = ("id", "kind", "options", "parent", "point")

    def __init__(self, line: str) -> None:
        place, _, what = line.partition(" - ")
        self.id, self.parent, _device, _root, point, options = place.split(" ", 6)[:6]
        self.kind = what.split(" ", 1)[0]
        self.options = frozenset(options.split(",")).union(what.split(" ")[-1].split(","))
        self.point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)

    def holds(self, path: str) -> bool:
        """Whether its mount point is ``path``, or on the way there."""
        return path == self.point or path.startswith(self.point.rstrip("/") + "/")
