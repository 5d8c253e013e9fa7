"""Who may connect, and sockets that cannot forget CURVE.

A peer's role is the role of its public key: ``Gate`` answers libzmq's ZAP requests with it, and
libzmq binds the answer to the connection, so that a peer cannot claim to be another.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Generic, TypeVar

import zmq
from zmq.utils import z85

from dispatcher.keys import KeyPair, require_curve

DOMAIN = b"mirai"
ZAP_ENDPOINT = "inproc://zeromq.zap.01"
HANDSHAKE_MS = 3_000
"""How long a peer may take to prove its key, in milliseconds."""
NEVER_MS = 100_000_000
"""Later than anyone waits, in milliseconds; with what libzmq adds by chance, an int still."""
CONNECT_MS = 10_000
"""How long a connection may take to be made where nothing answers, in milliseconds."""
BACKLOG = 4_096
"""How many connections may wait to be accepted: all daemons come back at once."""
HEARTBEAT_MS = 5_000
"""How often a peer on another machine is asked for a sign of life, in milliseconds."""
SILENCE_MS = 10_000
"""How long it may take to give one before its connection ends, in milliseconds."""
MAX_FRAME_BYTES = 8 << 30
"""The largest frame that a socket takes from an authenticated peer, in bytes."""

T = TypeVar("T")


class Gate(Generic[T]):
    """Who may connect: public key -> what the server knows about its owner."""

    def __init__(self) -> None:
        self._owners: dict[str, T] = {}

    def admit(self, public: str, owner: T) -> None:
        """Let connections with this key in from now on."""
        self._owners[public] = owner

    def revoke(self, public: str) -> None:
        """Let no further connection with this key in."""
        self._owners.pop(public, None)

    def owner(self, public: str) -> T | None:
        """Return whose key this is; None if it may not connect."""
        return self._owners.get(public)

    def answer(self, request: Sequence[bytes]) -> list[bytes]:
        """Return the reply to a ZAP request (RFC 27): 200 with the key as User-Id, or 400.

        The first frames, up to and with the empty one, are the way back.
        """
        frames = list(request)
        split = frames.index(b"") + 1 if b"" in frames else len(frames)
        way, body = frames[:split], frames[split:]
        version, number = (*body, b"", b"")[:2]
        public = self._known_key(body)
        verdict = [b"200", b"OK", public] if public else [b"400", b"refused", b""]
        return [*way, version, number, *verdict, b""]

    def _known_key(self, body: list[bytes]) -> bytes:
        if len(body) != 7 or body[0] != b"1.0" or body[2] != DOMAIN or body[5] != b"CURVE":
            return b""
        if len(body[6]) != 32:
            return b""
        public = z85.encode(body[6])
        return public if public.decode() in self._owners else b""


def listen(context: zmq.Context[zmq.Socket[bytes]], pair: KeyPair) -> zmq.Socket[bytes]:
    """Return a ROUTER that admits only peers whom the context's ZAP handler admits.

    Raises OSError where there is no CURVE: it never listens without.
    """
    require_curve()
    socket = context.socket(zmq.ROUTER)
    socket.curve_server = True
    socket.curve_secretkey = pair.secret.encode()
    socket.curve_publickey = pair.public.encode()
    socket.zap_domain = DOMAIN
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.BACKLOG, BACKLOG)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    _bound(socket)
    return socket


def dial(context: zmq.Context[zmq.Socket[bytes]], pair: KeyPair, server: str) -> zmq.Socket[bytes]:
    """Return a DEALER that talks only to the owner of the public key ``server``.

    It makes one connection, and is to be closed when that has ended: a peer that reconnects is
    a new peer.  Raises OSError where there is no CURVE.
    """
    require_curve()
    socket = context.socket(zmq.DEALER)
    socket.curve_serverkey = server.encode()
    socket.curve_publickey = pair.public.encode()
    socket.curve_secretkey = pair.secret.encode()
    # Not -1, "never": that would drop what has arrived and is not read yet when the connection
    # ends, such as the last results and the Stop of a dispatcher that leaves.
    socket.setsockopt(zmq.RECONNECT_IVL, NEVER_MS)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    _bound(socket)
    return socket


def watch_for_silence(socket: zmq.Socket[bytes], url: str) -> None:
    """Have connections at ``url``, which are made after this, end when the peer falls silent.

    Only where they may leave the machine: the system tells of the end of a local peer, and a
    pool that has nothing to do shall sleep.
    """
    if url.startswith("tcp://"):
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
        # While what is sent does not get through, libzmq asks for no sign of life: that would have
        # to wait its turn.  Then it is the system that must notice (TCP_USER_TIMEOUT).
        socket.setsockopt(zmq.TCP_MAXRT, SILENCE_MS)


def admit_only_this_user(socket: zmq.Socket[bytes], url: str) -> None:
    """Have local connections at ``url``, which is listened at after this, be of this user only.

    Others could not get past CURVE, but the abstract name space is open to every user of the
    machine, who could use up our descriptors.
    """
    if url.startswith("ipc://") and sys.platform == "linux":
        user = os.geteuid()
        socket.setsockopt(zmq.IPC_FILTER_UID, user - (user >> 31 << 32))  # as a signed int


def _bound(socket: zmq.Socket[bytes]) -> None:
    """Set what both sides share.  Credit bounds the queues, so the high-water marks are off."""
    socket.linger = 500
    # What is already a frame of ZeroMQ's goes out uncopied; pyzmq would keep a thread for others.
    socket.copy_threshold = 2**31 - 1
    socket.sndhwm = socket.rcvhwm = 0
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
