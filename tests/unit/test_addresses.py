"""Where this machine can be reached, as it is told to others."""

from __future__ import annotations

import pytest

from mirai import host_url, local_addresses
from mirai._addresses import primary_address, reachable_addresses, urls_of


def test_the_loopback_address_is_one_of_them() -> None:
    assert "127.0.0.1" in local_addresses().values()


def test_the_likeliest_address_comes_first_and_loopback_last() -> None:
    found = reachable_addresses()
    assert found[0] == primary_address()
    assert found[-1].startswith("127.")
    assert set(found) >= set(local_addresses().values())


@pytest.mark.parametrize(
    ("interface", "address"),
    [
        (None, primary_address()),
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("*", "0.0.0.0"),
        ("0.0.0.0", "0.0.0.0"),
    ],
)
def test_host_url(interface: str | None, address: str) -> None:
    assert host_url(interface) == f"tcp://{address}:0"
    assert host_url(interface, 5555) == f"tcp://{address}:5555"


def test_host_url_by_the_name_of_an_interface() -> None:
    for name, address in local_addresses().items():
        assert host_url(name) == f"tcp://{address}:0"


def test_an_interface_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="no interface or address 'eth77'"):
        host_url("eth77")
    with pytest.raises(ValueError, match="no interface or address '192\\.0\\.2\\.77'"):
        host_url("192.0.2.77")


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_that_there_is_not(port: int) -> None:
    with pytest.raises(ValueError, match="port must be from 0 to 65535"):
        host_url(port=port)


def test_what_is_no_port_or_interface() -> None:
    with pytest.raises(TypeError, match="port must be an int, not str"):
        host_url(port="5555")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="interface must be a str, not int"):
        host_url(5)  # type: ignore[arg-type]


def test_all_addresses_are_told_of_what_listens_at_all() -> None:
    found = urls_of("tcp://0.0.0.0:77")
    assert found == tuple(f"tcp://{address}:77" for address in reachable_addresses())


def test_one_address_stays_one() -> None:
    assert urls_of("tcp://127.0.0.1:77") == ("tcp://127.0.0.1:77",)
    assert urls_of("tcp://0.0.0.0:77", "head") == ("tcp://head:77",)
    assert urls_of("ipc:///run/socket") == ("ipc:///run/socket",)
