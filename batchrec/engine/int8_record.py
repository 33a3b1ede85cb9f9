"""Which quantised model a job in int8 runs: decided once, before the work begins, and the same for all its workers.

The coordinator that comes first puts the model beside the output, and then a record of it. Whoever resumes the job
takes that one.
"""

from __future__ import annotations

import dataclasses
import json

from batchrec.errors import OutputError
from batchrec.models.carrying import carry_quantised, quantised_here
from batchrec.models.quantised import Quantised
from batchrec.output.layout import Layout
from batchrec.records import Agreement
from batchrec.storage import KeyMissing, Store, create_or_compare
from batchrec.storage.json_objects import parse_object

_FORMAT = 1


def standing_quantised(store: Store, layout: Layout) -> Quantised | None:
    """Return the quantised model an output has, wherever its file is; None where it has none.

    Raises:
        OutputError: Its record cannot be read.
    """
    try:
        record = parse_object(store.read(layout.quantised_key))
        agreement = Agreement(int(record["num_checked"]), int(record["num_agreeing"]))
        return Quantised(str(record["name"]), str(record["sha256"]), agreement)
    except KeyMissing:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{layout.quantised_key} cannot be read", found=f"{type(error).__name__}: {error}", advice="remove it"
        ) from error


def keep_quantised(store: Store, layout: Layout, quantised: Quantised) -> Quantised:
    """Make a quantised model the job's, and return the one that is: another coordinator may have been first.

    Raises:
        StorageLost: The store would not take it.
    """
    carry_quantised(quantised, store)  # first: whoever reads the record finds the model
    name = quantised.path.rpartition("/")[2]
    record = {"format": _FORMAT, "name": name, "sha256": quantised.sha256, **dataclasses.asdict(quantised.agreement)}
    create_or_compare(store, layout.quantised_key, json.dumps(record, indent=1).encode(), same=lambda _: True)
    standing = standing_quantised(store, layout)
    assert standing is not None, "it was just put there"
    return quantised if standing.sha256 == quantised.sha256 else quantised_here(standing, store)
