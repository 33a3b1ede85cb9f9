"""Which embeddings a model has: the inputs of its last layer, as that layer gets them."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from batchrec.models.remembering import remember
from batchrec.records import EmbeddingSpec

if TYPE_CHECKING:
    from batchrec.models.bundle import ModelSpec


def resolve_embedding(setting: str, model: ModelSpec) -> EmbeddingSpec | None:
    """Return what a job keeps of each image's embedding, None for ``off``.

    The dimension comes from the architecture, never from a batch: a shard of failures only has it too.

    Args:
        setting: ``off``, ``float16`` or ``float32``.
        model: The resolved model.

    Raises:
        ModelError: The model has no embeddings.
    """
    if setting == "off":
        return None
    architecture, crop = model.architecture, model.preprocess.crop

    def count() -> dict[str, Any]:
        from batchrec.models.building import count_features

        return {"dimension": count_features(architecture, crop)}

    key = {"architecture": architecture, "crop": crop, "torchvision": version("torchvision")}
    return EmbeddingSpec(setting, int(remember("embeddings", key, count)["dimension"]))
