"""Recognise every image of an archive once: from a Parquet manifest to Parquet predictions.

    import batchrec

    summary = batchrec.submit("manifest.parquet", model="apparel")
    table = batchrec.open("manifest.parquet.batchrec").predictions().to_table()

Importing this package imports neither torch nor ray.
"""

from __future__ import annotations

from batchrec.api import open, submit  # noqa: A004  batchrec.open is how an output is opened
from batchrec.errors import BatchrecError, ErrorCode, ImageError, Refused, Resumable, Stopped, UsageError
from batchrec.spec import ImageLimits, JobSpec, StoreOptions

__all__ = [
    "BatchrecError",
    "ErrorCode",
    "ImageError",
    "ImageLimits",
    "JobSpec",
    "Refused",
    "Resumable",
    "Stopped",
    "StoreOptions",
    "UsageError",
    "open",
    "submit",
]
