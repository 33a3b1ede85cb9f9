"""Things many tests need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real photographs, where there is one."""
    folder = os.environ.get("BATCHREC_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no real photographs here: set BATCHREC_TEST_DATA")
    return Path(folder)
