"""Reading sockets: messages with a bound on their frames, and what a monitor has seen."""

from __future__ import annotations

import contextlib
import socket as _socket
from collections.abc import Callable, Iterator
from struct import Struct

import zmq

from dispatcher.messages import Buffer
from dispatcher.wire import MAX_FRAMES

Socket = zmq.Socket[bytes]

_EVENT = Struct("=Hi")  # as in zmq_socket_monitor(3); zmq.utils.monitor would load asyncio


def receive_frames(socket: Socket) -> list[Buffer] | None:
    """Return the frames of the next message, or None if there is none.

    The first is bytes, the others are frames of ZeroMQ's that can be sent on uncopied.
    """
    try:
        header = socket.recv(zmq.NOBLOCK)
    except zmq.Again:
        return None
    return [header, *rest_of_message(socket)]


def rest_of_message(socket: Socket) -> list[Buffer]:
    """Return the frames that follow the one received last.

    Of a message that has too many only as many are kept as it takes to see that.
    """
    frames: list[Buffer] = []
    while socket.getsockopt(zmq.RCVMORE):
        frame = socket.recv(copy=False)
        if len(frames) < MAX_FRAMES:
            frames.append(frame)
    return frames


def waiting_messages(socket: Socket) -> Iterator[list[bytes]]:
    """Yield the messages that wait, whole."""
    while True:
        try:
            yield socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return


def monitor_events(monitor: Socket) -> Iterator[tuple[int, int]]:
    """Yield what a socket's monitor has seen: events, each with its value (a descriptor)."""
    for header, _endpoint in waiting_messages(monitor):
        yield _EVENT.unpack(header)


def address_of(fd: int) -> str:
    """Return where the other end of a connection is; "here" for one of this machine's own."""
    try:
        connection = _socket.socket(fileno=fd)
    except OSError:  # it has ended already
        return "unknown"
    try:
        name = connection.getpeername()
        return "{}:{}".format(*name) if isinstance(name, tuple) else "here"
    except OSError:
        return "unknown"
    finally:
        connection.detach()  # it is not ours


def end_connection(fd: int, is_still_it: Callable[[], bool]) -> bool:
    """End a connection of libzmq's; return False if that has to be tried again.

    Its descriptor may be another's by now.  So it is held fast first; then ``is_still_it`` is to
    see whether the monitor has told of the connection's end, as it does before that is closed.
    """
    try:
        connection = _socket.socket(fileno=fd)
        try:
            held = connection.dup()
        finally:
            connection.detach()  # it is not ours
    except OSError:  # all descriptors are taken, or it has ended
        return not is_still_it()
    with held:
        if is_still_it():
            with contextlib.suppress(OSError):  # the other end was faster
                held.shutdown(_socket.SHUT_RDWR)
    return True
