from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.errors import ModelError
from batchrec.models.preprocessing import Preprocess

share = st.floats(0.01, 1, allow_nan=False)


@given(st.integers(1, 4096), st.data(), st.sampled_from(["bilinear", "bicubic"]), st.tuples(share, share, share))
def test_preprocessing_survives_json(resize, data, interpolation, values):
    crop = data.draw(st.integers(1, resize))
    before = Preprocess(resize=resize, crop=crop, interpolation=interpolation, mean=values, std=values)
    assert Preprocess.from_json(json.loads(json.dumps(before.to_json()))) == before


@pytest.mark.parametrize(
    "change",
    [
        {"crop": 300},
        {"crop": 0},
        {"resize": 5000},
        {"interpolation": "nearest"},
        {"std": [0.0, 1.0, 1.0]},
        {"mean": [0.5, 0.5]},
        {"antialias": False},
        {"rotate": 5},
        {"mean": None},
    ],
)
def test_nonsense_is_refused(change):
    with pytest.raises(ModelError):
        Preprocess.from_json({**Preprocess().to_json(), **change})
