"""Putting what is too large for one request into a bucket, in pieces."""

from __future__ import annotations

import tempfile
from pathlib import Path

import obstore

from batchrec.spec import StoreOptions
from batchrec.storage.publishing import create_or_compare, is_s3
from batchrec.storage.s3_client import connect, diagnose, split_url, store_error
from batchrec.storage.s3_store import CLIENT_ERRORS
from batchrec.storage.store import Store, check_key

# Up to here one conditional put; beyond it S3 takes pieces.
SINGLE_BYTES = 8 * 2**20
# Small, since each piece has to arrive within the client's time limit, and large enough for S3's 10,000 pieces.
PIECE_BYTES = 8 * 2**20
MAX_PIECES = 9_000
NUM_AT_ONCE = 2


def create_whole(store: Store, key: str, data: bytes, options: StoreOptions) -> None:
    """Put bytes of any number where nothing stands: where one request takes them, with the store's own condition.

    Args:
        store: Where to put them.
        key: Their key; the caller looked that nothing stands there.
        data: The bytes.
        options: How to reach the bucket.

    Raises:
        OutputError: Other bytes stand there.
        StorageLost: The store went away or is full.
    """
    if not is_s3(store.url) or len(data) <= SINGLE_BYTES:
        create_or_compare(store, key, data, same=lambda _: False)
        return
    with tempfile.TemporaryDirectory(prefix="batchrec-") as folder:
        path = Path(folder, "whole")
        path.write_bytes(data)
        upload_file(store.url, key, path, options)


def upload_file(url: str, key: str, path: Path, options: StoreOptions) -> None:
    """Put a file under a key, over what stands there: for keys that name their content.

    Args:
        url: ``s3://`` URL of the output folder.
        key: Its key below that.
        path: The file; read piece by piece.
        options: How to reach the bucket.

    Raises:
        AccessError: These credentials may not write there, or there is no such bucket.
        StorageLost: The store went away or is full.
        OSError: The file cannot be read.
    """
    check_key(key)
    bucket, prefix = split_url(url)
    piece_bytes = max(PIECE_BYTES, path.stat().st_size // MAX_PIECES + 1)
    with path.open("rb") as file:
        try:
            obstore.put(
                connect(bucket, options),
                f"{prefix}/{key}" if prefix else key,
                file,
                use_multipart=True,
                chunk_size=piece_bytes,
                max_concurrency=NUM_AT_ONCE,
            )
        except CLIENT_ERRORS as error:
            raise store_error(diagnose(error), url) from error
