from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from batchrec.learning.evaluating import count_right, prepared, wilson_interval
from batchrec.models import Preprocess


def test_wilson_gives_the_published_figures():
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share(counts):
    right, total = counts
    low, high = wilson_interval(right, total)
    assert -1e-12 <= low <= right / total + 1e-12
    assert right / total - 1e-12 <= high <= 1 + 1e-12


def test_recall_is_counted_by_true_label():
    accuracy = count_right([0, 1, 1, 2], [0, 1, 2, 2], ("a", "b", "c", "absent"))
    assert accuracy.share == 0.75
    assert accuracy.recalls == {"a": (1, 1), "b": (1, 1), "c": (1, 2)}
    assert accuracy.to_json()["recall"]["c"] == 0.5


@pytest.mark.parametrize("size", [(400, 533), (533, 400), (401, 333), (90, 700), (64, 64)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_those_of_torchvision(size, interpolation):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as reference

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    expected = reference.center_crop(reference.resize(image, [72], InterpolationMode(interpolation)), [64])
    ours = prepared(image, Preprocess(resize=72, crop=64, interpolation=interpolation))
    np.testing.assert_array_equal(ours, np.asarray(expected))
