"""Clients of AWS's services, by boto3, which need not be installed."""

from __future__ import annotations

from typing import Any


def new_client(name: str, *, region: str | None = None, url: str | None = None) -> Any:
    """Return a client; where and as whom is what boto3 finds, unless it is given.

    Raises ImportError if boto3 is not installed, and whatever boto3 raises.
    """
    import boto3

    # a session of our own: the one that all share is not for several threads
    return boto3.session.Session(region_name=region).client(name, endpoint_url=url)
