"""Commands that are to be interrupted, whoever started the tests."""

from __future__ import annotations

import signal


def hear_interrupts() -> None:
    """Undo in a child that a shell lets commands in the background, the tests perhaps, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
