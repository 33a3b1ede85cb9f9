"""A folder to try things in, left as it was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchrec.engine.scratch import scratch_beside
from batchrec.errors import AccessError
from batchrec.spec import StoreOptions
from batchrec.storage import open_store
from tests.cli.conftest import unwritable
from tests.s3_server import S3Server
from tests.storage.conftest import mount_disk

__all__ = ["mount_disk", "unwritable"]


def test_what_is_tried_in_a_bucket_is_removed_again(s3_server: S3Server) -> None:
    with scratch_beside("s3://photos/out", StoreOptions()) as scratch:
        open_store(f"{scratch}/sample", StoreOptions()).create("part", b"rows")
        assert list(open_store("s3://photos/out", StoreOptions()).list("_batchrec/probe/"))
    assert list(open_store("s3://photos", StoreOptions()).list("")) == []


def test_an_output_nobody_can_write_to_is_refused(unwritable: Path) -> None:
    with (
        pytest.raises(AccessError, match="nothing may be written beside"),
        scratch_beside(str(unwritable / "out"), StoreOptions()),
    ):
        pass


@pytest.mark.parametrize("form", ["{}/not/there/yet", "file://{}/out"])
def test_what_is_tried_on_a_disk_lies_on_the_output_s_disk_and_is_removed_again(form: str, tmp_path: Path) -> None:
    with scratch_beside(form.format(tmp_path), StoreOptions()) as scratch:
        assert Path(scratch).parent == tmp_path
        open_store(f"{scratch}/sample", StoreOptions()).create("part", b"rows")
    assert list(tmp_path.iterdir()) == []
