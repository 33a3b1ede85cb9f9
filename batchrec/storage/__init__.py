"""The one door to files and stores."""

from __future__ import annotations

from batchrec.storage.filesystems import open_filesystem
from batchrec.storage.places import LocalFile, S3Object
from batchrec.storage.policy import UriPolicy
from batchrec.storage.probing import OWN_FOLDERS, probe
from batchrec.storage.publishing import create_or_compare, create_or_find, local_path, open_store
from batchrec.storage.reading import ImageReader, InputFile, list_inputs, open_input
from batchrec.storage.room import Reserve
from batchrec.storage.store import KeyExists, KeyMissing, ObjectInfo, Store, Uncertain, stands

__all__ = [
    "OWN_FOLDERS",
    "ImageReader",
    "InputFile",
    "KeyExists",
    "KeyMissing",
    "LocalFile",
    "ObjectInfo",
    "Reserve",
    "S3Object",
    "Store",
    "Uncertain",
    "UriPolicy",
    "create_or_compare",
    "create_or_find",
    "list_inputs",
    "local_path",
    "open_filesystem",
    "open_input",
    "open_store",
    "probe",
    "stands",
]
