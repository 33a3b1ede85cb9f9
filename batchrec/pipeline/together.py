"""The thread that lets the model's device decode, many images at once, whatever the cores leave to it."""

from __future__ import annotations

from collections import deque
from typing import Final

from batchrec.pipeline.batching import Workbench
from batchrec.pipeline.decoding import facts_of
from batchrec.pipeline.hands import Hands
from batchrec.pipeline.jpeg import JpegHeader
from batchrec.pipeline.nvjpeg import LEAST_TOGETHER, MOST_PIXELS, MOST_TOGETHER, NvJpegDecoder
from batchrec.pipeline.waiting import FetchedImage

#: A device is left alone after so many calls in a row that gave nothing; each is halved down to single images.
CALLS_IN_VAIN: Final = 8


class DecodingTogether:
    """Takes images of a bench, has them decoded and puts them into its batches.

    Args:
        bench: Where images wait.
        decoder: Decodes them.
        hands: What its thread is at.
    """

    def __init__(self, bench: Workbench, decoder: NvJpegDecoder, hands: Hands) -> None:
        self._bench, self._decoder, self._hands = bench, decoder, hands
        self._num_in_vain = 0  # calls since it last decoded something

    def run(self) -> None:
        """Go on until the bench is closed, or the device has shown that it decodes nothing: the cores do then."""
        while self._num_in_vain < CALLS_IN_VAIN:
            images = self._bench.next_together(LEAST_TOGETHER, MOST_TOGETHER, MOST_PIXELS)
            if images is None:
                return
            left = deque(images)
            try:
                self._decode(left)
            except Exception as error:  # noqa: BLE001  the border of a shard: a fault here ends those in hand, not the thread
                for image in left:
                    self._bench.give_up(image, error)

    def _decode(self, left: deque[FetchedImage]) -> None:
        hand = self._hands.mine()
        hand.take("decode on the device", left[0].collector.shard, left[0].row)
        try:
            found = self._decoder.decode([(image.data, _header(image)) for image in left])
        finally:
            hand.lay_down()
        self._num_in_vain = self._num_in_vain + 1 if all(pixels is None for pixels in found) else 0
        for pixels in found:
            image = left[0]
            jpeg, image.jpeg = _header(image), None
            if pixels is None:
                self._bench.put_image(image)  # a core will say what is the matter with it
            else:
                # Without the time it took: stage times are measured against the cores that decode.
                image.collector.decoded(image.row, facts_of(jpeg.size, jpeg.orientation), 0.0, on_device=True)
                self._bench.place(image, pixels)
            left.popleft()


def _header(image: FetchedImage) -> JpegHeader:
    assert image.jpeg is not None, "it waited for cores alone"
    return image.jpeg
