"""Reading sockets: messages with a bound on their frames, and what a monitor has seen."""

from __future__ import annotations

from collections.abc import Iterator
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
