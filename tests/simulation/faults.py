"""What the world may do to a request, and what must never be seen."""

from __future__ import annotations

from enum import Enum


class Violation(AssertionError):
    """An invariant does not hold."""


class Fault(Enum):
    """What becomes of one request to the store."""

    LOST_BEFORE = "a 5xx or reset, not applied"
    LOST_AFTER = "a 5xx or reset, applied"
    CONFLICT = "409, nothing stands"
    RETRIED = "applied, and the client's own retry finds it there"
    LATE = "no answer, applied a while later"
    GONE_BEFORE = "the store is unreachable or full"
    GONE_AFTER = "the store is unreachable, but the request was applied"
    DENIED = "403"
    SLOW = "the answer takes long"
    CRASH_BEFORE = "the process dies before it"
    CRASH_AFTER = "the process dies right after it"
    CRASH_LATE = "the process dies, the request is applied a while later"


#: What can happen to a create; anything else has no conditional answer and no doubt.
OF_CREATES = tuple(Fault)
OF_OTHERS = (
    Fault.GONE_BEFORE,
    Fault.GONE_AFTER,
    Fault.DENIED,
    Fault.SLOW,
    Fault.CRASH_BEFORE,
    Fault.CRASH_AFTER,
)
#: Of these the run may die; all others are survived or end resumable.
CRASHES = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.CRASH_LATE)
