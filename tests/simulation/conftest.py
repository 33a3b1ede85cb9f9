"""The simulation is let in for every test here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation import seams


@pytest.fixture(autouse=True, scope="package")
def seams_cut() -> Iterator[None]:
    """Clocks, threads and workers are simulated ones."""
    with seams.cut():
        yield
