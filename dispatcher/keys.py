"""CURVE key pairs.  Who only passes them on need not load ZeroMQ."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, each half as 40 characters of Z85.  The secret is not in the repr."""

    public: str
    secret: str = field(repr=False)

    @classmethod
    def new(cls) -> KeyPair:
        """Draw a fresh pair at random.  Raises OSError where there is no CURVE."""
        import zmq

        require_curve()
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())


def require_curve() -> None:
    """Raise OSError where there is no CURVE."""
    import zmq

    if not zmq.has("curve"):
        raise OSError(
            errno.ENOTSUP,
            "this pyzmq has no CURVE, without which mirai connects to nobody; that of PyPI has it",
        )
