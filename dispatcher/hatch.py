"""A hatch beside a connection, through which shared memory is handed from process to process.

It is a pair of sockets of which a child inherits one from its parent, so that only processes of
one host have a hatch, and nobody else can put anything in.  What lies in it is kept by the system,
whatever becomes of who has put it there.  A message that is sent afterwards says what to take out.
"""

from __future__ import annotations

import _socket  # socket makes enums, slowly
import contextlib
import os
from struct import Struct
from typing import TYPE_CHECKING

from dispatcher.ends import another, pair
from dispatcher.shared import AVAILABLE, Shared, adopt, scarce

if TYPE_CHECKING:  # daemons are started before what it loads
    from dispatcher.messages import Buffer

_SERIAL = Struct("=Q")
_DESCRIPTOR = Struct("=i")


class Hatch:
    """One end of it.  For one thread."""

    def __init__(self, fd: int) -> None:
        """Own the descriptor of an end."""
        os.set_inheritable(fd, False)
        self._socket = _socket.socket(fileno=fd)
        self._handed = 0  # the serial of what was put in last
        self._spare = -1  # a descriptor, in whose place what is taken out can come
        self._reserve()

    @staticmethod
    def pair() -> tuple[int, int] | None:
        """Return descriptors of both ends, for a child to inherit; None where there are none."""
        if not AVAILABLE:
            return None
        return pair(_socket.SOCK_SEQPACKET, room=1 << 20)  # as much as one may have: for some 500

    def hand(self, shared: Shared) -> int:
        """Put it in, and return its serial; 0 if there is no room, or nobody at the other end."""
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _DESCRIPTOR.pack(shared.fd))
        serial = self._handed + 1
        flags = _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL
        try:
            self._socket.sendmsg([_SERIAL.pack(serial)], [rights], flags)
        except OSError:
            return 0
        self._handed = serial
        return serial

    def take(self, serial: int, size: int) -> Buffer | Shared:
        """Take out what has this serial, and whatever came before it.

        Raises ValueError if it is not there, or not memory of this size that cannot change.
        """
        self._release()
        try:
            while True:
                found, fd = self._next()
                if found == serial:
                    return adopt(fd, size)
                os.close(fd)  # the message about it was not sent
                if found > serial:
                    raise ValueError(f"number {serial} is not in the hatch any more")
        finally:
            self._reserve()

    def _next(self) -> tuple[int, int]:
        flags = _socket.MSG_DONTWAIT | _socket.MSG_CMSG_CLOEXEC
        room = _socket.CMSG_LEN(_DESCRIPTOR.size)  # for one: the system drops the others
        try:
            data, rights, how, _ = self._socket.recvmsg(_SERIAL.size, room, flags)
        except OSError as error:
            raise ValueError(f"nothing is in the hatch: {error}") from None
        if how & _socket.MSG_CTRUNC and not rights:
            raise ValueError(
                "shared memory has come, and this process has no descriptor left to take it with"
                " (see ulimit -n)"
            )
        if len(data) != _SERIAL.size or not rights:
            raise ValueError("what is in the hatch is not shared memory")
        return _SERIAL.unpack(data)[0], _DESCRIPTOR.unpack(rights[0][2])[0]

    def close(self) -> None:
        """Close this end; what is in it and was not taken out is dropped."""
        self._release()
        self._socket.close()

    def _reserve(self) -> None:
        """Have a descriptor to spare, since one that comes when all are taken would be lost."""
        with contextlib.suppress(OSError, ValueError):  # there is none left, or the end is closed
            self._spare = another(self._socket.fileno(), scarce())

    def _release(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
