"""The addresses of this machine, and which of them others may reach."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys

ANYWHERE = ("0.0.0.0", "*", "[::]")
"""What stands in a URL for all addresses of a machine."""
UNROUTED = ("192.0.2.1", 9)
"""An address of documentation (RFC 5737): to see which way out is taken; nothing is sent."""
_SIOCGIFADDR = 0x8915


def primary_address() -> str:
    """Return the address that this machine uses towards others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(UNROUTED)
            return str(probe.getsockname()[0])
        except OSError:  # there is no way out
            return "127.0.0.1"


def local_addresses() -> dict[str, str]:
    """Return the IPv4 addresses of this machine: the name of an interface -> its address.

    Where the system does not tell the names (it does on Linux), they are addresses too.
    """
    found = _by_interface() if sys.platform == "linux" else {}
    if not found:
        with contextlib.suppress(OSError):
            for *_, (address, *_) in socket.getaddrinfo(socket.gethostname(), 0, socket.AF_INET):
                found[str(address)] = str(address)
        found["127.0.0.1"] = "127.0.0.1"
    return found


def reachable_addresses() -> list[str]:
    """Return the addresses of this machine, those first that others are most likely to reach."""
    primary = primary_address()
    return sorted(
        dict.fromkeys([primary, *local_addresses().values()]),
        key=lambda address: (address.startswith("127."), address != primary),
    )


def host_url(interface: str | None = None, port: int = 0) -> str:
    """Return a URL for ``daemons(n, url=host_url(), launcher=...)`` to listen at.

    ``interface`` is the name of a network interface (``"ib0"``), an address or a name of this
    machine, or ``"*"`` for all of its addresses, which daemons then try in turn; by default it is
    the address that this machine uses towards others.  Port 0 means any that is free.

    Raises TypeError, or ValueError for an interface or a port that there is not.
    """
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"port must be an int, not {type(port).__name__}")
    if not 0 <= port <= 65_535:
        raise ValueError(f"port must be from 0 to 65535: {port}")
    return f"tcp://{_address_of(interface)}:{port}"


def urls_of(url: str, advertise: str | None = None) -> tuple[str, ...]:
    """Return where others may reach what listens at ``url``, the likeliest first.

    ``advertise`` is what they call this machine, if that is known.
    """
    scheme, _, address = url.partition("://")
    name, _, port = address.rpartition(":")
    if advertise is not None:
        return (f"{scheme}://{advertise}:{port}",)
    if scheme != "tcp" or name not in ANYWHERE:
        return (url,)
    return tuple(f"{scheme}://{each}:{port}" for each in reachable_addresses())


def _address_of(interface: str | None) -> str:
    if interface is None:
        return primary_address()
    if not isinstance(interface, str):
        raise TypeError(f"interface must be a str, not {type(interface).__name__}")
    if interface in ANYWHERE:
        return "0.0.0.0"
    found = local_addresses()
    if interface in found:
        return found[interface]
    try:
        address = socket.gethostbyname(interface)
    except OSError:
        address = ""
    if address not in found.values() and not address.startswith("127."):
        known = ", ".join(f"{name} ({address})" for name, address in found.items())
        raise ValueError(f"this machine has no interface or address {interface!r}, but {known}")
    return address


def _by_interface() -> dict[str, str]:
    import fcntl

    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has none
                request = struct.pack("256s", name[:15].encode())
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                found[name] = socket.inet_ntoa(answer[20:24])
    return found
