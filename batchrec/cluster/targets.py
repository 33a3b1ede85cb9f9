"""What a verb is about: a submission by its name, or the one of an output folder that has not ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrec.cluster.addresses import Address, resolve_address
from batchrec.cluster.submission import Submission, is_submission_id, submissions_of
from batchrec.cluster.tokens import token_for
from batchrec.errors import OutputError, UsageError
from batchrec.output.reading import Output
from batchrec.spec import StoreOptions
from batchrec.storage import open_store

if TYPE_CHECKING:
    from batchrec.cluster.dashboard import Dashboard


class NothingSubmitted(OutputError):
    """No submission is recorded in the folder; its job may have been run by a RayJob, or without a cluster."""


class ClusterUnnamed(UsageError):
    """Only a record in the folder says which cluster it is."""


@dataclass(frozen=True, slots=True)
class Target:
    """A submission to look at.

    Attributes:
        address: The cluster; None where the record names one that nobody here has named.
        submissions: Records of the folder that was named, the last last; none where it was named by its name.
        name: Its name, where that was what a user typed.
    """

    address: Address | None
    submissions: tuple[Submission, ...] = ()
    name: str = ""

    @property
    def submission_id(self) -> str:
        """Its name, as far as one can tell without the cluster."""
        return self.submissions[-1].submission_id if self.submissions else self.name

    @property
    def output(self) -> str | None:
        """Its folder; None where it was named by its name."""
        return self.submissions[-1].spec.output if self.submissions else None

    def chosen(self, dashboard: Dashboard) -> str:
        """Return the name of the last submission that has not ended, else of the last that the cluster knows.

        Of two that were handed over at once the later one is refused, and the earlier one runs.

        Raises:
            ClusterLost: The cluster does not answer.
        """
        if len(self.submissions) < 2:
            return self.submission_id
        jobs = {job.submission_id: job for job in dashboard.jobs()}
        known = [each.submission_id for each in reversed(self.submissions) if each.submission_id in jobs]
        running = [name for name in known if not jobs[name].has_ended]
        return (running or known or [self.submission_id])[0]

    def connect(self, *, no_auth: bool = False) -> Dashboard:
        """Open its cluster.

        Raises:
            ClusterUnnamed: Only the record names it.
            ClusterLost: It does not answer.
            AccessError: It wants a token, or another one.
        """
        if self.address is None:
            recorded = self.submissions[-1].address
            raise ClusterUnnamed(
                f"the record in the output folder names the cluster at {recorded}",
                advice=f"a token goes there only if you name it too: say --address {recorded}, "
                "or --no-auth if it has none",
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


def find_target(
    text: str,
    address: str | None,
    origin: str,
    options: StoreOptions,
    *,
    no_auth: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Target:
    """Return what a user named.

    Args:
        text: A submission's name or an output folder.
        address: The setting, where there is one.
        origin: Where that came from.
        options: How to reach the folder.
        no_auth: Whether no token will be sent.
        say: Told of records that cannot be read.

    Raises:
        UsageError: A name without a cluster to ask.
        NothingSubmitted: Nothing was ever submitted to the folder.
    """
    if is_submission_id(text):
        named = resolve_address(address, origin)
        if named is None:
            advice = "say --address http://HEAD:8265, or name the output folder instead"
            raise UsageError("a submission is known to its cluster only", found=text, advice=advice)
        return Target(named, name=text)
    records = submissions_of(open_store(text, options), say)
    if not records:
        advice = "`batchrec status` says how far its job is; what a RayJob runs is followed and ended with kubectl"
        raise NothingSubmitted(f"nothing was submitted to a cluster from {text}", advice=advice)
    return Target(_address(records[-1], address, origin, no_auth=no_auth), tuple(records))


def _address(record: Submission, setting: str | None, origin: str, *, no_auth: bool) -> Address | None:
    """Return the cluster of a record; whoever may write to the folder must not learn where tokens go by a record."""
    recorded = Address(record.address, "the record of the submission")
    if recorded.is_loopback or no_auth:
        return resolve_address(setting, origin, {}, look_here=False) or recorded
    return resolve_address(setting, origin, look_here=False)


def output_of(text: str, options: StoreOptions) -> Output | None:
    """Return the output in a folder; None while no coordinator has begun one."""
    try:
        return Output.at(text, options)
    except OutputError:
        return None


def kept_log(output: Output) -> str | None:
    """Return what the last coordinator left of its log in the output; None if there is none."""
    keys = [info.key for info in output.store.list(output.layout.drivers_prefix) if info.key.endswith(".log")]
    return output.store.read(keys[-1]).decode(errors="replace") if keys else None
