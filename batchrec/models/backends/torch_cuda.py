"""The model on one CUDA device through torch: one batch is copied while another is computed.

    slab -> copying queue -> a lane's images -> computing queue: the model -> a lane's answers -> Scores

A lane is the memory of one batch under way. Who calls :meth:`TorchCudaBackend.predict` has one to itself until
the answers are read, so nothing of it is written over early. Two orders are left to keep: the model waits for
the copy, and the caller, who may reuse the slab then, waits for the answers, which come behind both.
"""

from __future__ import annotations

import threading
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from batchrec.models.backends.halving import Portions
from batchrec.models.backends.scores import Scores

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from batchrec.models.backends.queues import Device, Mark, Queue
    from batchrec.models.backends.recogniser import Recogniser


class TorchCudaBackend:
    """Batches of one shape through a recorded pass; only the best scores come back from the device.

    Args:
        recognise: The model, on the device.
        device: The device.
        batch_size: Images of a batch.
        cache_dir: Where it is kept that the device's memory holds fewer; the user's cache when None.
    """

    name = "torch-cuda"
    #: One batch computed, one copied, and one whose answers are read, or whose caller waits for the interpreter.
    concurrency = 3

    def __init__(
        self, recognise: Recogniser, device: Device, *, batch_size: int, cache_dir: Path | None = None
    ) -> None:
        import torch

        self.device, self.precision, self.batch_size = device.name, recognise.precision, batch_size
        side = recognise.model.preprocess.crop
        self._shape = (batch_size, side, side, 3)
        self._recognise, self._device = recognise, device
        self._copying, self._computing = device.new_queue(), device.new_queue()
        self._alone = threading.Lock()
        self._portions = Portions(batch_size, recognise.key(device.kind), cache_dir)
        self._pass: _Pass | None = None
        # First: batches cannot be halved, and a pass takes what memory there is.
        batches = [torch.zeros(self._shape, dtype=torch.uint8, device=device.name) for _ in range(self.concurrency)]
        outputs = self._portions.run(self._pass_of, device.empty_cache).outputs
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        for images in batches:
            self._lanes.put(_Lane(device, images, outputs))
        device.settle()

    @property
    def portion(self) -> int:
        """Images that go through the model at once: the whole batch, unless memory ran out."""
        return self._portions.size

    @property
    def recorded(self) -> bool:
        """Whether a pass starts as one recorded graph."""
        return self._pass is not None and self._pass.recorded

    def new_slab(self) -> NDArray[np.uint8]:
        """See :class:`batchrec.models.backends.Backend`; page-locked, so that copying it holds up nobody."""
        import torch

        slab: NDArray[np.uint8] = self._device.new_host_tensor(self._shape, torch.uint8).numpy()
        return slab

    def predict(self, images: NDArray[np.uint8]) -> Scores:
        """Recognise uint8 RGB ``(batch_size, crop, crop, 3)``; callers beyond ``concurrency`` wait.

        Where the device runs out of memory the batch is halved, redone and kept halved, by later starts too.

        Raises:
            ModelError: If not even one image fits into the device's memory.
        """
        lane = self._lanes.get()
        try:
            return self._predict(lane, images)
        finally:
            self._lanes.put(lane)

    def _predict(self, lane: _Lane, images: NDArray[np.uint8]) -> Scores:
        self._copying.put(partial(lane.take, images))
        copied = self._copying.mark()
        try:
            self._compute(lane, copied).wait()
        finally:
            copied.wait()  # the caller writes over the images, whatever became of the model
        return lane.scores()

    def _compute(self, lane: _Lane, copied: Mark) -> Mark:
        with self._alone:
            self._computing.wait_for(copied)
            self._portions.run(partial(self._put, lane), self._device.empty_cache)
            return self._computing.mark()

    def _put(self, lane: _Lane, portion: int) -> None:
        one = self._pass_of(portion)
        for first in range(0, self.batch_size, portion):
            self._computing.put(partial(one.answer, *lane.part(first, portion)))

    def _pass_of(self, portion: int) -> _Pass:
        if self._pass is None or self._pass.num_images != portion:
            self._device.settle()
            self._pass = None  # its memory goes before another's comes
            self._pass = _Pass(self._recognise, self._device, self._computing, (portion, *self._shape[1:]))
            self._device.settle()
        return self._pass


class _Pass:
    """The model on so many images at once, from memory of its own to memory of its own."""

    def __init__(
        self, recognise: Recogniser, device: Device, computing: Queue, shape: tuple[int, int, int, int]
    ) -> None:
        import torch

        self.num_images = shape[0]
        self._recognise = recognise
        self._images = torch.zeros(shape, dtype=torch.uint8, device=device.name)
        self.outputs = [torch.empty_like(output) for output in recognise(self._images)]
        device.settle()
        self._run = device.record(computing, self._run_plainly)
        self.recorded = self._run != self._run_plainly

    def answer(self, images: torch.Tensor, answers: list[torch.Tensor]) -> None:
        """Recognise images on the device, at most ``num_images``, into memory the process can read."""
        self._images[: len(images)].copy_(images)
        self._run()
        for answer, output in zip(answers, self.outputs, strict=True):
            answer.copy_(output[: len(images)], non_blocking=True)

    def _run_plainly(self) -> None:
        for output, found in zip(self.outputs, self._recognise(self._images), strict=True):
            output.copy_(found)


class _Lane:
    """Memory of one batch under way: its images on the device, its answers in this process."""

    def __init__(self, device: Device, images: torch.Tensor, outputs: list[torch.Tensor]) -> None:
        self._images = images
        self._answers = [device.new_host_tensor((len(images), *each.shape[1:]), each.dtype) for each in outputs]

    def take(self, images: NDArray[np.uint8]) -> None:
        """Copy a batch to the device."""
        import torch

        self._images.copy_(torch.from_numpy(images), non_blocking=True)

    def part(self, first: int, count: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return some of the images, and where their answers go."""
        some = slice(first, first + count)
        return self._images[some], [answer[some] for answer in self._answers]

    def scores(self) -> Scores:
        """Return the answers, which the next batch will not change."""
        return Scores(*(answer.numpy().copy() for answer in self._answers))
