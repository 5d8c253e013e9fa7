"""Buckets of S3, and of what speaks its protocol, as stores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

from mirai._aws import new_client
from mirai._errors import StoreError
from mirai.controllers._store import Data, Store, check_below, check_object, is_object

EXTRA = "S3 is asked by boto3, which is not installed: pip install 'mirai-zmq[s3]'"
AT_ONCE = 1_000
"""How many objects S3 removes at a time."""


@dataclass(frozen=True)
class S3Store(Store):
    """A bucket of S3, or what has a prefix there: ``"s3://bucket/prefix"``.

    ``endpoint`` is the URL of a server that is not AWS's own; without one, and for the region and
    the credentials, it is what boto3 finds where it is used (``AWS_ENDPOINT_URL_S3``, say, or the
    role of a machine or a pod).  Wanted are the rights to get, put, delete and list objects, and
    to list and abort multipart uploads.
    """

    url: str
    endpoint: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith("s3://") or not self._bucket:
            raise ValueError(f"s3://bucket/prefix is meant, not {self.url!r}")
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def __str__(self) -> str:
        return self.url

    def write(self, name: str, data: Data) -> None:
        key = self._key(name)
        with self._errors(f"writing {name}"):
            self._client.upload_fileobj(BytesIO(data), self._bucket, key)

    def read(self, name: str) -> bytes:
        key = self._key(name)
        with self._errors(f"reading {name}"), BytesIO() as file:
            try:
                self._client.download_fileobj(self._bucket, key, file)
            except Exception as error:
                if _is_absence(error):
                    raise self._missing(name) from None
                raise
            return file.getvalue()

    def exists(self, name: str) -> bool:
        key = self._key(name)
        with self._errors(f"looking for {name}"):
            try:
                self._client.head_object(Bucket=self._bucket, Key=key)
            except Exception as error:
                if _is_absence(error):
                    return False
                raise
            return True

    def delete(self, name: str) -> None:
        key = self._key(name)
        with self._errors(f"deleting {name}"):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def names(self) -> Iterator[str]:
        with self._errors("listing"):
            for key in self._keys("list_objects_v2", "Contents", Delimiter="/"):
                yield _last(key["Key"])

    def destroy(self) -> None:
        with self._errors("destroying"):
            keys = [{"Key": found["Key"]} for found in self._keys("list_objects_v2", "Contents")]
            for start in range(0, len(keys), AT_ONCE):
                self._delete(keys[start : start + AT_ONCE])
            for left in self._keys("list_multipart_uploads", "Uploads"):
                self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=left["Key"], UploadId=left["UploadId"]
                )

    def below(self, name: str) -> S3Store:
        return S3Store(f"{self.url}/{check_below(name)}", self.endpoint)

    @property
    def _client(self) -> Any:
        try:
            return _client(self.endpoint, os.getpid())
        except ImportError:
            raise StoreError(EXTRA) from None

    @property
    def _bucket(self) -> str:
        return self.url.split("/")[2]

    @property
    def _prefix(self) -> str:
        """What the keys of all objects begin with, in this store and in those below."""
        path = self.url.removeprefix(f"s3://{self._bucket}").strip("/")
        return f"{path}/" if path else ""

    def _key(self, name: str) -> str:
        return self._prefix + check_object(name)

    def _keys(self, operation: str, what: str, **arguments: str) -> Iterator[dict[str, str]]:
        """Yield what S3 lists of our objects."""
        pages = self._client.get_paginator(operation)
        for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix, **arguments):
            yield from (found for found in page.get(what, ()) if is_object(_last(found["Key"])))

    def _delete(self, keys: list[dict[str, str]]) -> None:
        """Remove objects, by their keys.  Raises StoreError if one stays."""
        wanted = {"Objects": keys, "Quiet": True}
        answer = self._client.delete_objects(Bucket=self._bucket, Delete=wanted)
        for error in answer.get("Errors", ()):
            raise StoreError(f"{self}: deleting {error['Key']}: {error['Message']}")


@lru_cache(maxsize=8)
def _client(endpoint: str | None, process: int) -> Any:  # noqa: ARG001 (a fork wants its own)
    """Return the client of all stores of a process: it takes long to make."""
    return new_client("s3", url=endpoint)


def _is_absence(error: Exception) -> bool:
    """Whether S3 says that there is no such object."""
    answer = getattr(error, "response", {})
    return answer.get("Error", {}).get("Code") in ("404", "NoSuchKey")


def _last(key: str) -> str:
    return key.rpartition("/")[2]
