"""Whom SFTP trusts: hosts whose keys are known, as ssh does."""

from __future__ import annotations

import os

import paramiko

FILES = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
"""Where ssh keeps what it knows."""


class KnownHosts(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    """Refuses a host that ssh does not know, or knows with another key."""

    def __repr__(self) -> str:
        """Return the same for all: fsspec takes what is called alike for the same connection."""
        return "KnownHosts()"

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        """Return if the host is known by this key.  Raises SSHException."""
        known = paramiko.HostKeys()
        for path in map(os.path.expanduser, FILES):
            if os.path.exists(path):
                known.load(path)
        if not known.check(hostname, key):
            client.close()
            raise paramiko.SSHException(f"{hostname} is not known by this key to ssh")
