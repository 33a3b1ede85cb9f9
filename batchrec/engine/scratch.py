"""A folder to try things in where an output would lie, left as it was found."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from batchrec.errors import AccessError
from batchrec.spec import StoreOptions
from batchrec.storage import Store, local_path, open_store
from batchrec.storage.probing import PROBES
from batchrec.storage.publishing import is_s3


@contextmanager
def scratch_beside(output: str | None, options: StoreOptions) -> Iterator[str]:
    """Lend a folder where an output would be written, and remove what is written to it; a temporary one when None.

    Args:
        output: Local or ``s3://``; it need not be there yet.
        options: How to reach it.

    Raises:
        AccessError: Nothing may be written there.
    """
    if output is not None and is_s3(output):
        store = open_store(f"{output.rstrip('/')}/{PROBES}{uuid.uuid4().hex}", options)
        try:
            yield store.url
        finally:
            _empty(store)
    else:
        with _folder_near(output) as folder:
            yield folder


@contextmanager
def _folder_near(output: str | None) -> Iterator[str]:
    try:
        lent = tempfile.TemporaryDirectory(prefix=".batchrec-", dir=output and _first_that_is_there(output))
    except OSError as error:
        raise AccessError(
            f"nothing may be written beside {output}", found=str(error.strerror), advice="name another folder with -o"
        ) from error
    with lent as folder:
        yield folder


def _first_that_is_there(output: str) -> Path:
    wanted = Path(local_path(output)).expanduser().absolute()
    return next(folder for folder in (wanted, *wanted.parents) if folder.is_dir())


def _empty(store: Store) -> None:
    # Deleting is no permission a job needs; where it is not given, what was tried stays.
    with suppress(AccessError):
        for found in list(store.list("")):
            store.delete(found.key)
