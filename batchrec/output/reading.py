"""One job's output folder as its readers see it, without the retries of its rows."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchrec.errors import OutputError
from batchrec.output.layout import OUTPUT_KEY, REPORT_KEY, Layout, lost_its_binding
from batchrec.output.schema import ERROR
from batchrec.output.seal import Seal, read_seal, standing_parts
from batchrec.output.tables import read_table
from batchrec.spec import StoreOptions
from batchrec.storage import KeyMissing, Store, open_filesystem, open_store
from batchrec.storage.json_objects import parse_object

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_JOB_ID = re.compile(r"[0-9a-f]{64}")
#: What is told of a row without a prediction; of a sealed job also where in the manifest it is.
ERROR_COLUMNS = ["image_id", "uri", "row", "error_code", "error_detail", "attempt"]
_SAYS_MORE = "`batchrec verify` says what else is, and `batchrec repair` mends it"


@dataclass(frozen=True)
class Output:
    """One job's output folder, complete or not.

    Attributes:
        store: The folder.
        job_id: The job it belongs to.
        identity: What decides the job's rows.
        options: How the folder is reached.
    """

    store: Store
    job_id: str
    identity: Mapping[str, Any]
    options: StoreOptions

    @classmethod
    def at(cls, url: str, options: StoreOptions) -> Self:
        """Open an output folder.

        Raises:
            OutputError: The folder is no job's.
        """
        store = open_store(url, options)
        try:
            record = parse_object(store.read(OUTPUT_KEY))
            if not _JOB_ID.fullmatch(record["job_id"]):
                raise ValueError(f"job_id is {record['job_id']!r}")
            return cls(store, record["job_id"], dict(record["identity"]), options)
        except KeyMissing as error:
            if lost_its_binding(store.top()):
                raise OutputError(
                    f"{url} was the output of a job, and what binds it to that job is gone",
                    found=f"_SUCCESS, and no {OUTPUT_KEY}",
                    advice=f"`batchrec repair {shlex.quote(url)}`, then its own command again",
                ) from error
            raise OutputError(
                f"{url} is not the output of a job", found=f"no {OUTPUT_KEY}", advice="name the folder given with -o"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{url}/{OUTPUT_KEY} cannot be read",
                found=f"{type(error).__name__}: {error}",
                advice=f"it was damaged, or not written by batchrec: `batchrec repair {shlex.quote(url)}` tells",
            ) from error

    @property
    def layout(self) -> Layout:
        """Keys of the job's objects."""
        return Layout(self.job_id)

    @cached_property
    def seal(self) -> Seal | None:
        """The seal; None while the job is not complete."""
        return read_seal(self.store, self.layout)

    @cached_property
    def parts(self) -> list[str]:
        """Keys of the parts that stand, in plan order; none while there is no plan.

        Raises:
            OutputError: The plan is damaged.
        """
        try:
            with self.store.open(self.layout.plan_key) as plan:
                num_shards = pq.ParquetFile(pa.PythonFile(plan, mode="r")).metadata.num_rows
        except KeyMissing:
            return []
        except pa.ArrowException as error:
            raise OutputError(f"{self.store.url}/{self.layout.plan_key} is damaged", found=str(error)) from error
        return [self.layout.part_key(shard) for shard in sorted(standing_parts(self.store, self.layout, num_shards))]

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns of the predictions.

        Raises:
            OutputError: No part stands yet, or the first one is damaged.
        """
        key = self._standing()[0]
        try:
            with self.store.open(key) as part:
                return pq.ParquetFile(pa.PythonFile(part, mode="r")).schema_arrow.remove_metadata()
        except pa.ArrowException as error:
            raise self._damaged(key, error) from error

    def own_predictions(self) -> ds.Dataset:
        """Return the rows of the job's own parts as a pyarrow dataset; columns are read when they are asked for.

        Raises:
            OutputError: No part stands yet.
        """
        import pyarrow.dataset as ds  # no other verb needs it

        paths = self._standing()
        system, root = open_filesystem(self.store.url, self.options)
        return ds.dataset([f"{root}/{key}" for key in paths], filesystem=system, format="parquet")

    def own_errors(self) -> pa.Table:
        """Return the job's own rows without a prediction; of a job under way, those published so far.

        Raises:
            OutputError: No part stands yet, or the table is gone.
        """
        if self.seal is not None:
            return self._sealed_errors()
        return pa.concat_tables(self._failed_rows(key) for key in self._standing())

    def _failed_rows(self, key: str) -> pa.Table:
        try:
            with self.store.open(key) as part:
                rows = read_table(part, [*ERROR_COLUMNS, "status"])
        except (pa.ArrowException, OSError, KeyError) as error:
            raise self._damaged(key, error) from error
        return rows.filter(pc.equal(rows["status"], ERROR)).select(ERROR_COLUMNS).replace_schema_metadata(None)

    def _damaged(self, key: str, error: Exception) -> OutputError:
        return OutputError(f"{self.store.url}/{key} is damaged", found=str(error).split("\n")[0], advice=_SAYS_MORE)

    def require_outside(self, url: str) -> None:
        """Refuse a target inside this folder, whose readers would take what is written there for its own.

        Raises:
            OutputError: It is.
        """
        if f"{url}/".startswith(f"{self.store.url}/"):
            raise OutputError(
                f"{url} lies inside {self.store.url}",
                found="an output, which nothing else is written into",
                advice="name a folder outside it with -o",
            )

    def _standing(self) -> list[str]:
        if not self.parts:
            raise OutputError(f"{self.store.url} has no predictions yet", advice="see `batchrec status`")
        return self.parts

    def _sealed_errors(self) -> pa.Table:
        key = self.layout.errors_key
        try:
            rows = read_table(io.BytesIO(self._read(key, _SAYS_MORE)))
            return rows.select([*ERROR_COLUMNS, "manifest_file", "file_row"])
        except (pa.ArrowException, OSError, KeyError) as error:
            raise self._damaged(key, error) from error

    def report(self) -> dict[str, Any]:
        """Return the report of the latest run.

        Raises:
            OutputError: No run has ended yet.
        """
        return self._json(REPORT_KEY, "no run of this job has ended yet: see `batchrec status`")

    def progress(self) -> dict[str, Any] | None:
        """Return what the running coordinator last said; None if it never did."""
        try:
            return parse_object(self.store.read(self.layout.progress_key))
        except (KeyMissing, ValueError, TypeError):
            return None  # advisory, and perhaps being rewritten

    def progress_age_s(self) -> float | None:
        """Return how long ago a coordinator last said something, in seconds; None if it never did."""
        try:
            written = self.store.info(self.layout.progress_key).modified
        except KeyMissing:
            return None
        return max(0.0, (datetime.now(UTC) - written).total_seconds())

    def _json(self, key: str, advice: str) -> dict[str, Any]:
        try:
            return parse_object(self._read(key, advice))
        except (ValueError, TypeError) as error:
            damaged = "it was damaged after it was written; `batchrec verify` checks the rows"
            raise OutputError(f"{self.store.url}/{key} cannot be read", found=str(error), advice=damaged) from error

    def _read(self, key: str, advice: str) -> bytes:
        try:
            return self.store.read(key)
        except KeyMissing as error:
            raise OutputError(f"{self.store.url}/{key} is not there", advice=advice) from error
