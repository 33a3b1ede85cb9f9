"""Models: what a string names, the bundle it becomes, the backends that run it."""

from __future__ import annotations

from batchrec.models.bundle import ModelSpec, load_bundle, save_bundle
from batchrec.models.preprocessing import Preprocess
from batchrec.models.zoo import list_models, resolve_model

__all__ = ["ModelSpec", "Preprocess", "list_models", "load_bundle", "resolve_model", "save_bundle"]
