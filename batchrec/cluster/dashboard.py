"""A cluster's Job Submission API, with a limit on every wait and one clear error for everything it answers."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from batchrec.cluster.addresses import Address, is_this_machine, without_ray_variables
from batchrec.cluster.tokens import PLACES, Token
from batchrec.errors import AccessError, BatchrecError, ClusterLost, Refused
from batchrec.redacting import shown

CONNECT_S, ANSWER_S, NODES_S = 5.0, 60.0, 15.0
_PAUSE_S = 0.2
OUR_IDS = "batchrec-"
_AGAIN = "try again in a minute"
_STATUS = re.compile(r"status code (\d{3})")
# Ray's message of a failed job carries the end of its log, which is told elsewhere.
_LOG_IN_MESSAGE = ", last available logs"
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")

for _name in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # they tell of every connection and package


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """What a cluster says of one submission.

    Attributes:
        submission_id: Its name there.
        status: ``PENDING``, ``RUNNING``, ``SUCCEEDED``, ``FAILED`` or ``STOPPED``.
        message: Ray's own words.
        error_type: Ray's name of what went wrong.
        exit_code: Of the coordinator's process; None if it never ended by itself.
        started_at: In Unix seconds, by the cluster's clock.
        ended_at: Likewise; None while it runs.
        metadata: What was submitted with it.
    """

    submission_id: str
    status: str
    message: str = ""
    error_type: str | None = None
    exit_code: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in _ENDED


class StillStarting(ClusterLost):
    """The cluster's dashboard answers already, and cannot take a submission yet."""


class DuplicateId(Exception):
    """The cluster has a submission of this name already."""


class _NotThere(Refused):
    """The cluster knows no such submission."""


class _Client(JobSubmissionClient):  # type: ignore[misc]  # ray's types end here
    """Ray's client, which would wait without end and let a ``.netrc`` replace the token."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        super().__init__(url, headers=dict(headers))
        self._ssl_context = True  # aiohttp's word for what Ray says as None

    def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> Any:
        limits = {"timeout": (CONNECT_S, ANSWER_S), "auth": lambda request: request}
        return super()._do_request(method, endpoint, **limits, **kwargs)


class Dashboard:
    """A cluster by the address of its dashboard. Asks its version when made.

    Args:
        address: Where.
        token: What it asks for; None for a cluster without tokens.

    Raises:
        ClusterLost: It does not answer.
        AccessError: It wants a token, or another one.
    """

    def __init__(self, address: Address, token: Token | None) -> None:
        self.address, self._token = address, token
        with self._understood(), without_ray_variables():
            # A header of our own, even an empty one, keeps Ray's client from looking for a token by itself.
            self._client = _Client(address.url, headers=token.headers if token else {"Authorization": ""})

    def submit(
        self,
        submission_id: str,
        entrypoint: str,
        *,
        runtime_env: Mapping[str, Any],
        metadata: Mapping[str, str],
        num_cpus: float,
    ) -> None:
        """Hand a command to the cluster.

        Raises:
            DuplicateId: One of this name is there.
        """
        with self._understood():
            self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=submission_id,
                runtime_env=dict(runtime_env),
                metadata=dict(metadata),
                entrypoint_num_cpus=num_cpus,
            )

    def job(self, submission_id: str) -> RemoteJob | None:
        """Return what the cluster says of a submission; None for one it does not know."""
        try:
            with self._understood():
                return _remote_job(self._client.get_job_info(submission_id))
        except _NotThere:
            return None

    def jobs(self) -> list[RemoteJob]:
        """Return all submissions of batchrec that the cluster knows, the oldest first."""
        with self._understood():
            details = self._client.list_jobs()
        found = [_remote_job(each) for each in details if (each.submission_id or "").startswith(OUR_IDS)]
        return sorted(found, key=lambda job: job.started_at or 0.0)

    def stop(self, submission_id: str) -> bool:
        """Ask a submission to end; False where it was not running."""
        with self._understood():
            return bool(self._client.stop_job(submission_id))

    def logs(self, submission_id: str) -> str | None:
        """Return all that a submission printed; None for one the cluster does not know."""
        try:
            with self._understood():
                return str(self._client.get_job_logs(submission_id))
        except _NotThere:
            return None

    async def tail(self, submission_id: str) -> AsyncIterator[str]:
        """Yield what a submission prints, from its first line on, until it ends.

        Raises:
            ClusterLost: The connection broke.
        """
        try:
            async for text in self._client.tail_job_logs(submission_id):
                yield text
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            raise self._lost(type(error).__name__) from error

    def keeps_head_free(self) -> bool:
        """Whether the head offers no cores, so that a coordinator has to ask for one elsewhere."""
        return any(node.get("is_head_node") and not node["resources_total"].get("CPU") for node in self._nodes())

    def is_here(self) -> bool:
        """Whether every node of the cluster is this machine; a tunnel's end is not."""
        nodes = self._nodes()
        return bool(nodes) and all(is_this_machine(str(node.get("node_ip"))) for node in nodes)

    def _nodes(self) -> list[dict[str, Any]]:
        """Return the living nodes by the state API; none where that cannot be had."""
        until = time.monotonic() + NODES_S
        while (nodes := self._registered_nodes()) == [] and time.monotonic() < until:
            time.sleep(_PAUSE_S)  # a head answers some seconds before it counts itself
        return nodes or []

    def _registered_nodes(self) -> list[dict[str, Any]] | None:
        with self._understood():
            response = self._client._do_request("GET", "/api/v0/nodes?limit=10000&detail=false")
        try:
            nodes = response.json()["data"]["result"]["result"]
            return [node for node in nodes if node["state"] == "ALIVE" and isinstance(node["resources_total"], dict)]
        except (KeyError, TypeError, ValueError):
            return None

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Turn what Ray's client raises into our errors."""
        try:
            yield
        except AuthenticationError as error:
            raise self._denied(str(error)) from None
        except RuntimeError as error:
            if "already exists" in str(error):
                raise DuplicateId from None
            if "No available agent" in str(error):
                raise StillStarting(
                    f"the cluster at {self.address.url} is still starting",
                    advice="try again in a minute; if it stays so, its agent's port (52365) was taken by another Ray",
                ) from None
            status = _STATUS.search(str(error))
            if status is None or int(status[1]) >= 500:
                raise self._failed(error) from None
            raise self._refused(_NotThere if status[1] == "404" else Refused, error) from None
        except OSError as error:  # those of requests and sockets alike
            raise self._lost(type(error).__name__) from None

    def _denied(self, text: str) -> AccessError:
        if text.startswith("Authentication failed"):
            origin = self._token.origin if self._token else "nowhere"
            return AccessError(
                f"the cluster at {self.address.url} does not take the token from {origin}",
                found="403",
                advice="take the token of this cluster: on its head, `ray get-auth-token` prints it",
            )
        return AccessError(
            f"the cluster at {self.address.url} wants a token", found="401 without one", advice=f"put it into {PLACES}"
        )

    def _lost(self, found: str) -> ClusterLost:
        return ClusterLost(
            f"the cluster at {self.address.url} does not answer",
            found=found,
            advice="check the address and the network; what is published stays, and the same command resumes",
        )

    def _failed(self, error: Exception) -> BatchrecError:
        return ClusterLost(
            f"the cluster at {self.address.url} failed to answer", found=_last_line(error), advice=_AGAIN
        )

    def _refused(self, kind: type[Refused], error: Exception) -> Refused:
        return kind(f"the cluster at {self.address.url} refused the request", found=_last_line(error))


def _last_line(error: Exception) -> str:
    lines = [line for line in map(str.strip, str(error).splitlines()) if line.strip(".")]
    return shown(lines[-1])[:300] if lines else type(error).__name__


def _remote_job(details: JobDetails) -> RemoteJob:
    times = [None if each is None else each / 1000 for each in (details.start_time, details.end_time)]
    return RemoteJob(
        submission_id=details.submission_id or details.job_id or "",
        status=str(details.status.value),
        message=shown(" ".join((details.message or "").partition(_LOG_IN_MESSAGE)[0].split())),
        error_type=details.error_type,
        exit_code=details.driver_exit_code,
        started_at=times[0],
        ended_at=times[1],
        metadata=dict(details.metadata or {}),
    )
