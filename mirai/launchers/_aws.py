"""What is asked of AWS: by boto3, which need not be installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mirai._aws import new_client
from mirai._errors import LaunchError

EXTRA = "AWS is asked by boto3, which is not installed: pip install 'mirai-zmq[aws]'"


class Service:
    """One of AWS's services; what it refuses is a LaunchError in its own words."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    @property
    def region(self) -> str:
        """The region that is asked."""
        return str(self._client.meta.region_name)

    def ask(self, operation: str, *, secret: str = "", **arguments: Any) -> dict[str, Any]:
        """Ask for an operation, by boto3's name; ``secret`` is kept out of errors.

        Raises LaunchError.
        """
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(**arguments)
        except Exception as error:  # botocore has two trees of them, and more below
            said = str(error).replace(secret, "…") if secret else str(error)
            raise LaunchError(f"{self._name} ({operation}): {said}") from None
        return answer

    def pages(self, operation: str, key: str, **arguments: Any) -> Iterator[Any]:
        """Yield what is under ``key`` in each page of an answer.  Raises LaunchError."""
        more: dict[str, Any] = {}
        while True:
            answer = self.ask(operation, **arguments, **more)
            yield from answer.get(key, ())
            if not answer.get("nextToken"):
                return
            more = {"nextToken": answer["nextToken"]}


@contextmanager
def service(name: str, region: str | None = None, url: str | None = None) -> Iterator[Service]:
    """Have one of AWS's services; where and as whom is what boto3 finds, unless it is given.

    Raises LaunchError.
    """
    try:
        client = new_client(name, region=region, url=url)
    except ImportError:
        raise LaunchError(EXTRA) from None
    except Exception as error:
        raise LaunchError(f"{name} of AWS: {error}") from None
    try:
        yield Service(client, name)
    finally:
        client.close()
