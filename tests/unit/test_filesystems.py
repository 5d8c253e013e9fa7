"""Which file system a path lies in, from what Linux tells about its mounts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dispatcher.filesystems import is_network, kind_in, kind_of

MOUNTS = r"""
1 1 0:2 / / rw - rootfs rootfs rw
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid shared:12 - proc proc rw
30 22 0:40 / /users rw,relatime shared:30 master:2 - nfs4 head:/export/users rw,vers=4.2
31 30 254:0 /var/scratch /users/ann/scratch rw,relatime - ext4 /dev/vda rw
32 22 0:41 / /mnt/my\040disk rw - cifs //server/disk rw
33 22 0:42 / /mnt/back\134slash rw - tmpfs tmpfs rw
34 22 0:43 / /data/deep rw - nfs old:/deep rw
35 22 0:44 / /data rw - xfs /dev/vdb rw
36 22 0:45 / /project rw - nfs old:/project rw
37 36 0:46 / /project rw - btrfs /dev/vdc rw
38 22 0:47 / /remote rw - fuse.sshfs ann@far:/ rw
39 22 0:48 / /odd-dash rw - fuse.fuse-overlayfs fuse-overlayfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/srv/x.db", "ext4"),
        ("/users", "nfs4"),
        ("/users/ann/x.db", "nfs4"),
        ("/userswork/x.db", "ext4"),
        ("/users/ann/scratch/x.db", "ext4"),
        ("/mnt/my disk/x.db", "cifs"),
        ("/mnt/my\\040disk/x.db", "ext4"),
        ("/mnt/back\\slash/x.db", "tmpfs"),
        ("/data/deep/x.db", "xfs"),
        ("/project/x.db", "btrfs"),
        ("/remote/x.db", "fuse.sshfs"),
        ("/odd-dash/x.db", "fuse.fuse-overlayfs"),
    ],
)
def test_it_goes_from_mount_to_mount(path: str, kind: str) -> None:
    assert kind_in(MOUNTS, path) == kind


def test_nothing_is_known_where_nothing_is_told() -> None:
    assert kind_in("", "/x") == ""
    assert kind_in("what is this\n", "/x") == ""


def test_in_a_chroot_the_root_need_not_be_a_mount() -> None:
    mounts = "50 7 0:50 / /shared rw - nfs head:/shared rw\n"
    assert kind_in(mounts, "/shared/x.db") == "nfs"
    assert kind_in(mounts, "/x.db") == ""


@pytest.mark.parametrize(
    "kind",
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "9p",
        "ceph",
        "beegfs",
        "glusterfs",
        "lustre",
        "gpfs",
        "fuse",
        "fuse.sshfs",
        "fuse.s3fs",
    ],
)
def test_of_several_machines(kind: str) -> None:
    assert is_network(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "",
        *[
            "ext4",
            "xfs",
            "btrfs",
            "zfs",
            "tmpfs",
            "overlay",
            "virtiofs",
            "fuseblk",
            "fuse.fuse-overlayfs",
        ],
    ],
)
def test_of_this_machine(kind: str) -> None:
    assert not is_network(kind)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says")
def test_what_this_machine_says(tmp_path: Path) -> None:
    assert kind_of("/proc/self/status") == "proc"
    assert not is_network(kind_of(tmp_path / "not" / "there"))
    (tmp_path / "link").symlink_to("/proc")
    assert kind_of(tmp_path / "link" / "version") == "proc"


@pytest.mark.skipif(sys.platform == "linux", reason="Linux says")
def test_elsewhere_nothing_is_known(tmp_path: Path) -> None:
    assert kind_of(tmp_path) == ""
