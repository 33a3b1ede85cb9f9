from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from batchrec.models.backends.scores import scores_from_logits

logits = st.tuples(st.integers(1, 5), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.integers(-800, 800).map(lambda tenths: tenths / 10))
)


@given(logits, st.integers(1, 15))
def test_scores_are_the_softmax_sorted(values, top_k):
    scores = scores_from_logits(values.copy(), top_k)
    exact = np.exp(values.astype(np.float64) - values.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    best = np.argsort(-values, axis=1, kind="stable")[:, :top_k]
    np.testing.assert_array_equal(scores.top_labels, best)
    np.testing.assert_allclose(scores.top_scores, np.take_along_axis(exact, best, axis=1), rtol=1e-4, atol=1e-7)
    entropy = -(exact * np.log(np.where(exact > 0, exact, 1))).sum(axis=1)
    np.testing.assert_allclose(scores.entropy, entropy, rtol=1e-3, atol=1e-4)


def test_kinds_and_shapes_are_as_promised():
    scores = scores_from_logits(np.zeros((3, 7), dtype=np.float32), 5)
    assert (scores.top_scores.dtype, scores.top_labels.dtype, scores.entropy.dtype) == ("float32", "int32", "float32")
    assert (scores.top_scores.shape, scores.top_labels.shape, scores.entropy.shape) == ((3, 5), (3, 5), (3,))


def test_equal_scores_go_to_the_lower_index():
    scores = scores_from_logits(np.array([[1, 2, 2, 1]], dtype=np.float32), 4)
    assert scores.top_labels.tolist() == [[1, 2, 0, 3]]


def test_the_input_is_left_alone():
    values = np.ones((2, 3), dtype=np.float32)
    scores_from_logits(values, 2)
    assert (values == 1).all()
