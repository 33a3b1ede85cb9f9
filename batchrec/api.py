"""The Python face of batchrec; heavy imports wait until a function is called."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrec.errors import UsageError
from batchrec.settings import checked, resolve_settings

if TYPE_CHECKING:
    from batchrec.output.opening import OpenedOutput
    from batchrec.report.summary import RunSummary
    from batchrec.spec import StoreOptions


def submit(source: str | Path | Sequence[str | Path], **settings: Any) -> RunSummary:
    """Run a job to its end, or resume it.

    Args:
        source: Manifest file, folder or glob, local or ``s3://``; or several.
        **settings: Any setting of a job file by its name: ``output``, ``model``, ``pool``, ...

    Returns:
        The report of the run.

    Raises:
        UsageError: A setting is unknown or wrong.
        Refused: The manifest, model or output cannot be used.
        Resumable: The run ended early; the same call resumes it.
    """
    from batchrec.job import run_job

    sources = (source,) if isinstance(source, str | Path) else tuple(source)
    resolved = resolve_settings([str(each) for each in sources], checked(settings))
    if resolved.values["address"] not in (None, "local"):
        raise UsageError(
            "from Python a job runs in this process or on the Ray it is connected to",
            found=f"address={resolved.values['address']}",
            advice="call ray.init(address=...) first, or use the command `batchrec submit --address`",
        )
    return run_job(resolved.to_spec())


def open(url: str | Path, store: StoreOptions | None = None) -> OpenedOutput:  # noqa: A001  read as batchrec.open
    """Open an output folder, complete or not.

    Raises:
        OutputError: The folder is no job's.
    """
    from batchrec.output.opening import open_output

    return open_output(os.fspath(url), store)
