"""A few rows from all over a manifest, the same ones each time."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from batchrec.errors import ManifestError
from batchrec.manifest.definition import Manifest
from batchrec.manifest.planning import Plan
from batchrec.manifest.rows import RowReader
from batchrec.spec import StoreOptions

#: Shards looked into at most: each costs a part of a row group.
_MAX_SHARDS = 64


def sampled_uris(manifest: Manifest, plan: Plan, options: StoreOptions, num_rows: int) -> list[str | None]:
    """Return the image URIs of about ``num_rows`` rows, evenly spread over a plan; all of a smaller one.

    Raises:
        ManifestError: The manifest changed since it was opened, is damaged, or holds the images itself.
        StorageLost: The store does not answer.
    """
    require_uris(manifest)
    shards = [plan[index] for index in _spread(len(plan), _MAX_SHARDS)]
    within = max(1, sum(shard.num_rows for shard in shards))
    uris: list[str | None] = []
    with closing(RowReader(manifest, options)) as reader:
        for shard in shards:
            found = reader.read(shard).uris
            uris += [found[row] for row in _spread(len(found), -(-num_rows * len(found) // within))]
    return uris


def require_uris(manifest: Manifest) -> None:
    """Refuse a manifest whose images cannot be read apart from the rows around them.

    Raises:
        ManifestError: It holds the images itself.
    """
    if manifest.columns.images:
        raise ManifestError(
            "no sample can be taken of images inside the manifest",
            found=f"images in column {manifest.columns.uri[0]!r}",
            advice="do without `bench`, `plan --measure` and --precision int8, or write the images to files",
        )


def _spread(length: int, wanted: int) -> list[int]:
    """Return at most ``wanted`` different positions of ``length``, evenly spread."""
    if wanted >= length:
        return list(range(length))
    return [int(position) for position in np.arange(wanted) * length // wanted]
