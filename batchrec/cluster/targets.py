"""What a verb is about: a submission by its name, or the last one of an output folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrec.cluster.addresses import Address, resolve_address
from batchrec.cluster.submission import Submission, is_submission_id, submissions_of
from batchrec.cluster.tokens import token_for
from batchrec.errors import OutputError, UsageError
from batchrec.output.layout import Layout
from batchrec.output.reading import Output, open_output
from batchrec.spec import StoreOptions
from batchrec.storage import open_store

if TYPE_CHECKING:
    from batchrec.cluster.dashboard import Dashboard


@dataclass(frozen=True, slots=True)
class Target:
    """A submission to look at.

    Attributes:
        submission_id: Its name on the cluster.
        address: The cluster; None where the record names one that nobody here has named.
        submission: Its record, where it was found by its folder.
    """

    submission_id: str
    address: Address | None
    submission: Submission | None = None

    def connect(self, *, no_auth: bool = False) -> Dashboard:
        """Open its cluster.

        Raises:
            UsageError: Only the record names it.
            ClusterLost: It does not answer.
            AccessError: It wants a token, or another one.
        """
        if self.address is None:
            assert self.submission is not None
            raise UsageError(
                f"the record in the output folder names the cluster at {self.submission.address}",
                advice="a token goes there only if you name it too: say --address, or --no-auth if it has none",
            )
        return connect(self.address, no_auth=no_auth)


def connect(address: Address, *, no_auth: bool = False) -> Dashboard:
    """Open a cluster with the token that is at hand.

    Raises:
        ClusterLost: It does not answer.
        AccessError: There is no token, or it wants another one.
    """
    token = token_for(address, no_auth=no_auth)
    from batchrec.cluster.dashboard import Dashboard

    return Dashboard(address, token)


def find_target(text: str, address: str | None, origin: str, options: StoreOptions, *, no_auth: bool = False) -> Target:
    """Return what a user named.

    Args:
        text: A submission's name or an output folder.
        address: The setting, where there is one.
        origin: Where that came from.
        options: How to reach the folder.
        no_auth: Whether no token will be sent.

    Raises:
        UsageError: A name without a cluster to ask.
        OutputError: Nothing was ever submitted to the folder.
    """
    if is_submission_id(text):
        named = resolve_address(address, origin)
        if named is None:
            advice = "say --address http://HEAD:8265, or name the output folder instead"
            raise UsageError("a submission is known to its cluster only", found=text, advice=advice)
        return Target(text, named)
    records = submissions_of(open_store(text, options))
    if not records:
        raise OutputError(f"nothing was submitted to a cluster from {text}", advice="see `batchrec status`")
    last = records[-1]
    return Target(last.submission_id, _address(last, address, origin, no_auth=no_auth), last)


def _address(record: Submission, setting: str | None, origin: str, *, no_auth: bool) -> Address | None:
    """Return the cluster of a record; whoever may write to the folder must not learn where tokens go by a record."""
    recorded = Address(record.address, "the record of the submission")
    if recorded.is_loopback or no_auth:
        return resolve_address(setting, origin, {}, look_here=False) or recorded
    return resolve_address(setting, origin, look_here=False)


def output_of(text: str, options: StoreOptions) -> Output | None:
    """Return the output in a folder; None while no coordinator has begun one."""
    try:
        return open_output(text, options)
    except OutputError:
        return None


def kept_log(output: Output) -> str | None:
    """Return what the last coordinator left of its log in the output; None if there is none."""
    keys = [info.key for info in output.store.list(Layout(output.job_id).drivers_prefix) if info.key.endswith(".log")]
    return output.store.read(keys[-1]).decode(errors="replace") if keys else None
