from __future__ import annotations

import numpy as np
import pytest

from batchrec.models.backends import open_backend

pytestmark = pytest.mark.gpu


def on(device, model, precision):
    return open_backend(
        model, precision=precision, device=device, backend="auto", batch_size=8, num_threads=1, top_k=5
    )[0]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-2), ("bf16", 0.05), ("fp16", 0.02)])
def test_cuda_agrees_with_the_cpu(small_model, noise, precision, tolerance):
    ours, theirs = on("cuda", small_model, precision).predict(noise), on("cpu", small_model, "fp32").predict(noise)
    np.testing.assert_allclose(ours.top_scores[:, 0], theirs.top_scores[:, 0], atol=tolerance)
    assert ours.top_labels.dtype == np.int32


def test_a_reused_buffer_does_not_mix_batches(small_model, noise):
    backend = on("cuda", small_model, "bf16")
    batches = [np.roll(noise, shift, axis=0) for shift in range(8)]
    for shift, batch in enumerate(batches * 4):
        expected = np.roll(backend.predict(noise).top_labels[:, 0], shift % 8)
        np.testing.assert_array_equal(backend.predict(batch).top_labels[:, 0], expected)


def test_running_out_of_memory_halves_the_batch_and_is_remembered(small_model, noise, fresh_cache, monkeypatch):
    import torch

    backend = on("cuda", small_model, "bf16")
    whole = backend.predict(noise)
    forward = backend._forward

    def narrow(chunk):
        if len(chunk) > 2:
            raise torch.cuda.OutOfMemoryError("too much")
        return forward(chunk)

    monkeypatch.setattr(backend, "_forward", narrow)
    np.testing.assert_array_equal(backend.predict(noise).top_labels[:, 0], whole.top_labels[:, 0])
    assert on("cuda", small_model, "bf16")._portions.size == 2
