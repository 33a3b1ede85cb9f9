"""Outputs as people open them, ``batchrec.open(OUT)``: a job and the retries of its rows as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from batchrec.output.merging import MergedPredictions, merged_errors, sealed_children
from batchrec.output.reading import Output
from batchrec.spec import StoreOptions

if TYPE_CHECKING:
    import pyarrow.dataset as ds


class OpenedOutput(Output):
    """One job's output folder, complete or not, with its retries."""

    def predictions(self, *, merged: bool = True) -> ds.Dataset | MergedPredictions:
        """Return the rows; columns are read when they are asked for.

        A job nobody retried gives a pyarrow dataset. One whose failed rows were done again by ``batchrec retry``
        gives a :class:`~batchrec.output.merging.MergedPredictions`: the same rows in the same order, with those
        replaced that a complete retry has, read as a stream. Both have ``schema``, ``to_table``, ``to_batches``,
        ``count_rows`` and ``head``, and both are taken by DuckDB, Polars and pandas.

        Args:
            merged: Whether retries count; False gives the dataset of the job's own rows.

        Raises:
            OutputError: No part stands yet, or a retry's folder is damaged.
        """
        return MergedPredictions(self) if merged and sealed_children(self) else self.own_predictions()

    def errors(self, *, merged: bool = True) -> pa.Table:
        """Return the rows without a prediction; of a job under way, those published so far.

        Args:
            merged: Whether retries count: rows they recognised are left out, the others have their newest error.

        Raises:
            OutputError: No part stands yet, the table is gone, or a retry's folder is damaged.
        """
        own = self.own_errors()
        return merged_errors(self, own) if merged and self.seal is not None else own


def open_output(url: str, options: StoreOptions | None = None) -> OpenedOutput:
    """Open an output folder.

    Raises:
        OutputError: The folder is no job's.
    """
    return OpenedOutput.at(url, options or StoreOptions())
