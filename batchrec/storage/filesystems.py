"""Read-only file systems over an output folder, for readers that open many files by themselves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import fsspec

from batchrec.spec import StoreOptions

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def open_filesystem(url: str, options: StoreOptions) -> tuple[AbstractFileSystem, str]:
    """Return a file system and the path of a store's root in it.

    Args:
        url: A store's own ``url``: a local path or ``s3://bucket/prefix``.
        options: How to reach an object store.
    """
    if not url.startswith("s3://"):
        return fsspec.filesystem("file"), url
    endpoint = options.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT")
    client = {"region_name": options.region} if options.region else {}
    payer = {"RequestPayer": "requester"} if options.requester_pays else {}
    system = fsspec.filesystem("s3", endpoint_url=endpoint, client_kwargs=client, s3_additional_kwargs=payer)
    return system, url.removeprefix("s3://")
