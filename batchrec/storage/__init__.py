"""The one door to files and stores."""

from __future__ import annotations

from batchrec.storage.filesystems import open_filesystem
from batchrec.storage.policy import LocalFile, S3Object, UriPolicy
from batchrec.storage.probing import probe
from batchrec.storage.publishing import create_or_compare, local_path, open_store
from batchrec.storage.reading import ImageReader, InputFile, list_inputs, open_input
from batchrec.storage.store import KeyExists, KeyMissing, ObjectInfo, Store, Uncertain

__all__ = [
    "ImageReader",
    "InputFile",
    "KeyExists",
    "KeyMissing",
    "LocalFile",
    "ObjectInfo",
    "S3Object",
    "Store",
    "Uncertain",
    "UriPolicy",
    "create_or_compare",
    "list_inputs",
    "local_path",
    "open_filesystem",
    "open_input",
    "open_store",
    "probe",
]
