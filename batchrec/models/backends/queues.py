"""The one door to CUDA's streams, events, graphs and page-locked memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from batchrec.models.backends.halving import is_out_of_memory

if TYPE_CHECKING:
    import torch

#: Times a piece of work is done before it is recorded: libraries choose their kernels and take their memory meanwhile.
_WARM_UPS: Final = 3


class Mark(Protocol):
    """A place in a queue: behind everything put there before."""

    def wait(self) -> None:
        """Return once the device has come so far."""


class Queue(Protocol):
    """Work a device does in order, some time after it was put there, and beside what its other queues hold."""

    def put(self, work: Callable[[], object]) -> None:
        """Have work done after all that was put here before."""

    def mark(self) -> Mark:
        """Return the place behind what was put here so far."""

    def wait_for(self, mark: Any) -> None:
        """Begin nothing that is put here from now on before another queue of the device has come to a mark."""


class Device(Protocol):
    """Where tensors lie and queues are worked off.

    Attributes:
        name: As torch names it, e.g. ``cuda:0``.
        kind: What tells one kind of device, and the memory it has, from another.
    """

    name: str
    kind: str

    def new_queue(self) -> Queue:
        """Return a queue of its own."""

    def new_host_tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return zeros in this process's memory that the device copies to and from by itself."""

    def record(self, queue: Any, work: Callable[[], object]) -> Callable[[], object]:
        """Return what does the same work, on the same memory, in one go; for one queue only."""

    def decode_jpegs(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        """Decode JPEGs, uint8 (bytes,) in this process, to uint8 (3, height, width) on the device: all or none.

        Raises:
            RuntimeError: One cannot be decoded, memory ran out, or there is no decoder.
        """

    def settle(self) -> None:
        """Return once the device has done everything in all its queues."""

    def empty_cache(self) -> None:
        """Give back memory that is only kept for later."""


class CudaMark:
    """An event; who waits for it sleeps, and leaves the core to a decoder."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        import torch

        self.event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self.event.record(stream)

    def wait(self) -> None:
        """See :class:`Mark`."""
        self.event.synchronize()


class CudaQueue:
    """A stream."""

    def __init__(self, device: str) -> None:
        import torch

        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def put(self, work: Callable[[], object]) -> None:
        """See :class:`Queue`."""
        import torch

        with torch.cuda.stream(self.stream):
            work()

    def mark(self) -> CudaMark:
        """See :class:`Queue`."""
        return CudaMark(self.stream)

    def wait_for(self, mark: CudaMark) -> None:
        """See :class:`Queue`."""
        self.stream.wait_event(mark.event)


class CudaDevice:
    """One CUDA device."""

    def __init__(self, name: str) -> None:
        import torch

        self.name = name
        properties = torch.cuda.get_device_properties(name)
        self.kind = f"{properties.name}, {properties.total_memory} bytes"

    def new_queue(self) -> CudaQueue:
        """See :class:`Device`."""
        return CudaQueue(self.name)

    def new_host_tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """See :class:`Device`."""
        import torch

        return torch.zeros(shape, dtype=dtype, pin_memory=True)

    def record(self, queue: CudaQueue, work: Callable[[], object]) -> Callable[[], object]:
        """See :class:`Device`; work that cannot be recorded is returned as it is."""
        import torch

        for _ in range(_WARM_UPS):
            queue.put(work)
        graph = torch.cuda.CUDAGraph()
        try:
            # What other threads do to the device meanwhile is no part of it, and no reason to fail. A recording
            # that fails would leave its stream the current one.
            with (
                torch.cuda.stream(queue.stream),
                torch.cuda.graph(graph, stream=queue.stream, capture_error_mode="thread_local"),
            ):
                work()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return work
        return graph.replay

    def decode_jpegs(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        """See :class:`Device`; with nvJPEG."""
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        # nvJPEG writes from a stream of its own, and waits for nothing: what this one still reads must be read before.
        torch.cuda.current_stream(self.name).synchronize()
        decoded: list[torch.Tensor] = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=self.name)
        return decoded

    def settle(self) -> None:
        """See :class:`Device`."""
        import torch

        torch.cuda.synchronize(self.name)

    def empty_cache(self) -> None:
        """See :class:`Device`."""
        import torch

        torch.cuda.empty_cache()
