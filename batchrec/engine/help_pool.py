"""The help protocol: how a worker speaks to its decode helpers, wherever they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from batchrec.records import InHand

if TYPE_CHECKING:
    from batchrec.pipeline.lending import Slab

#: Lots a helper has at once, so that it fetches the next while it decodes one.
LOTS_PER_HELPER = 2
#: Pixels of one lot at most: enough that a message costs little beside them, and a lost helper costs little.
SLAB_BYTES = 8 * 2**20


class Helper(Protocol):
    """Fetches and decodes images in a process of its own."""

    def start(self) -> None: ...
    def decode(self, uris: Sequence[str | None]) -> Slab: ...
    def in_hand(self) -> tuple[InHand, ...]: ...


@dataclass(frozen=True, slots=True)
class HelperReady:
    """A helper takes lots."""

    helper: int


@dataclass(frozen=True, slots=True)
class LotDecoded:
    """A slab came."""

    helper: int
    lot: int
    slab: Slab


@dataclass(frozen=True, slots=True)
class HelperTold:
    """A helper says what its threads have had in hand for a while, longest first."""

    helper: int
    in_hand: tuple[InHand, ...]


@dataclass(frozen=True, slots=True)
class HelperLost:
    """A helper is gone, or of no use. ``died`` says that an image may have ended its process."""

    helper: int
    reason: str
    died: bool


HelperEvent = HelperReady | LotDecoded | HelperTold | HelperLost


class HelpPool(Protocol):
    """Helpers of one worker. A helper's number is never used again.

    Attributes:
        yields: Whether workers wait for cores, which go before helpers.
    """

    yields: bool

    def room(self) -> int:
        """Return how many cores are free for helpers."""

    def start(self, make_helper: Callable[[], Helper]) -> int:
        """Begin to start one and return its number; it answers with HelperReady or HelperLost."""

    def send(self, helper: int, lot: int, uris: Sequence[str | None]) -> None:
        """Hand a lot to a ready helper; it answers with LotDecoded or HelperLost."""

    def ask(self, helper: int) -> None:
        """Ask what it has in hand; it answers with HelperTold, however busy it is, unless it hangs."""

    def wait(self, timeout_s: float) -> list[HelperEvent]:
        """Return what happened, after at most ``timeout_s`` seconds; empty when nothing did."""

    def stop(self, helper: int) -> None:
        """End a helper; nothing more is heard of it."""
