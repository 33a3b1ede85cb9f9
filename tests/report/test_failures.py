"""Failed rows, counted."""

from __future__ import annotations

from batchrec.report.failures import count_by


def test_prefixes_are_folders_and_of_images_inside_archives_the_archives() -> None:
    uris = [
        "a/1.jpg",
        "a/2.jpg",
        "3.jpg",
        None,
        "s3://b/x.tar#512+9~00000000/d/4.jpg",
        "s3://b/x.tar#2048+9~0000ffff/5.jpg",
    ]
    rows = [{"uri": uri, "error_code": "empty"} for uri in uris]
    assert count_by(rows, "prefix") == {"a": 2, "s3://b/x.tar": 2, ".": 1, "(none)": 1}
    assert count_by(rows, "code") == {"empty": 6}
