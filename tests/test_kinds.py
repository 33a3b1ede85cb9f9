"""Values read from JSON are held to the kinds that were declared."""

from __future__ import annotations

import pytest

from batchrec.kinds import fits


@pytest.mark.parametrize(
    ("value", "declared"),
    [
        *((1, int), (1, float), (1.5, float), ("a", str), (True, bool), (None, float | None), (2, float | None)),
        *((["a"], tuple[str, ...]), ((), tuple[str, ...]), ([{}], tuple[dict, ...]), ({}, dict), ("x", dict)),
    ],
)
def test_what_is_of_its_kind_fits(value, declared):
    assert fits(value, declared)


@pytest.mark.parametrize(
    ("value", "declared"),
    [
        *(("1", int), (True, int), (None, float), (1, str), (1, bool), ("soon", float | None)),
        *(("a", tuple[str, ...]), ([1], tuple[str, ...]), (5, tuple[str, ...]), (None, tuple[str, ...])),
    ],
)
def test_what_is_of_another_kind_does_not(value, declared):
    assert not fits(value, declared)
