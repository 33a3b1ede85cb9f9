"""The values that cross borders between rooms and processes: frozen, slotted, picklable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchrec.stats import ShardStats


@dataclass(frozen=True, slots=True)
class Shard:
    """A fixed range of manifest rows: the unit of work, retry and output.

    Attributes:
        index: Position in the plan; names the part.
        file: Index of the manifest file the rows are in.
        first_row: First row within that file.
        num_rows: Rows of the shard.
        first_position: Position of the first row in the whole manifest.
    """

    index: int
    file: int
    first_row: int
    num_rows: int
    first_position: int


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """What a job keeps of each image's embedding.

    Attributes:
        dtype: ``float16`` or ``float32``.
        dimension: Numbers of one embedding, at least 1.
    """

    dtype: str
    dimension: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often a quantised model gives the label that the full one gives.

    Attributes:
        num_checked: Images of the manifest both were asked about; none of them served to quantise it.
        num_agreeing: Those of which both say the same.
    """

    num_checked: int
    num_agreeing: int

    def __str__(self) -> str:
        share = self.num_agreeing / max(1, self.num_checked)
        return f"the label of fp32 on {self.num_agreeing:,} of {self.num_checked:,} sampled images, {share:.2%}"


@dataclass(frozen=True, slots=True)
class LabelCount:
    """How often a model gave a label.

    Attributes:
        label: The label.
        num_images: Images whose first label it is.
        mean_score: Mean of the scores those were given it with.
    """

    label: str
    num_images: int
    mean_score: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of one shard. ``number`` counts from 1 within one run; 0 stands for rows published as given up.

    ``isolated`` asks for all its images to be decoded in child processes: it has lost several workers.
    """

    shard: Shard
    number: int
    attempt_id: str
    isolated: bool = False


@dataclass(frozen=True, slots=True)
class InHand:
    """What one thread of a worker is at.

    Attributes:
        stage: ``read``, ``fetch``, ``decode``, ``decode apart``, ``decode on the device``, ``predict`` or ``write``.
        shard: Index of the shard.
        row: Row within the shard; of a batch its first, of a whole shard 0.
        for_s: How long it has been at it.
    """

    stage: str
    shard: int
    row: int
    for_s: float


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What a worker says of a shard it published.

    Attributes:
        shard: Index of the shard.
        attempt_id: Whose part stands in the store; another attempt's if that one won.
        published: Whether this attempt's own part is the one that stands.
        stats: Counters and stage times of this attempt.
        first_row_at: When its first image was taken up, in Unix seconds.
        last_row_at: When its last image ended, in Unix seconds.
    """

    shard: int
    attempt_id: str
    published: bool
    stats: ShardStats
    first_row_at: float
    last_row_at: float


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What a worker found when it started.

    Attributes:
        host: Name of its machine.
        pid: Its process.
        device: ``cpu`` or ``cuda:0``.
        backend: What runs the model, for example ``openvino``.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        batch_size: Images of one forward pass.
        trial: One printable line saying how the backend was chosen.
        start_s: Seconds from construction to ready.
        num_cores: Cores it may use.
        num_fetching: Reads in flight at once, to begin with.
        num_decoding: Threads that decode.
        num_predicting: Forward passes at once.
        device_decodes: Whether its device decodes images too.
    """

    host: str
    pid: int
    device: str
    backend: str
    precision: str
    batch_size: int
    trial: str
    start_s: float
    num_cores: int = 1
    num_fetching: int = 1
    num_decoding: int = 1
    num_predicting: int = 1
    device_decodes: bool = False
