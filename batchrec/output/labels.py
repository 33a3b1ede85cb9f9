"""How often each label was given, counted over the rows of an output."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from batchrec.errors import OutputError, StorageLost
from batchrec.output.reading import Output
from batchrec.output.schema import OK
from batchrec.records import LabelCount

_COLUMNS = ["label", "score"]


def count_labels(output: Output) -> list[LabelCount]:
    """Count the job's own rows by label, the commonest first.

    Only labels and scores are read, as a stream: memory holds some batches of them, however many rows there are.

    Raises:
        OutputError: No part stands yet, one is damaged, or there are other rows than were sealed.
        StorageLost: The store went away.
    """
    num_images: defaultdict[str, int] = defaultdict(int)
    sum_scores: defaultdict[str, float] = defaultdict(float)
    for batch in _batches(output):
        found = pa.Table.from_batches([batch]).group_by("label").aggregate([("label", "count"), ("score", "sum")])
        for row in found.to_pylist():
            num_images[row["label"]] += row["label_count"]
            sum_scores[row["label"]] += row["score_sum"] or 0.0
    total = sum(num_images.values())
    if output.seal is not None and total != output.seal.num_ok:
        raise OutputError(
            f"{output.store.url} has other rows than were sealed",
            found=f"{total:,} with a prediction, {output.seal.num_ok:,} sealed",
            advice="`batchrec verify` says what is wrong, `batchrec repair` lets the job be finished again",
        )
    found = [LabelCount(label, count, sum_scores[label] / count) for label, count in num_images.items()]
    return sorted(found, key=lambda each: (-each.num_images, each.label))


def _batches(output: Output) -> Iterator[pa.RecordBatch]:
    recognised = (pc.field("status") == OK) & pc.field("label").is_valid()
    try:
        yield from output.own_predictions().to_batches(columns=_COLUMNS, filter=recognised, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        # Arrow says OSError of damaged files too; only the system's own errors carry a number.
        found = str(error).split("\n")[0]
        if isinstance(error, OSError) and error.errno is not None:
            raise StorageLost(f"{output.store.url} cannot be read", found=found, advice="run again") from error
        raise OutputError(
            f"a part in {output.store.url} is damaged", found=found, advice="`batchrec verify` says which"
        ) from error
