"""From an architecture's name and a weights file to a model ready to run."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrec.errors import ModelError
from batchrec.models.weights import read_state_dict

if TYPE_CHECKING:
    import torch

    from batchrec.models.bundle import ModelSpec

# torchvision's own loader renames these when it reads the published densenet files.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


def build_model(spec: ModelSpec, *, embeddings: bool = False) -> torch.nn.Module:
    """Build a torchvision architecture in evaluation mode, in float32, with its weights.

    Args:
        spec: What to build.
        embeddings: Whether it answers ``(logits, embeddings)`` instead of logits; see :func:`count_features`.

    Raises:
        ModelError: If the weights are damaged or do not fit the architecture, or it has no embeddings.
    """
    model = load_model(spec.architecture, Path(spec.weights_path), spec.preprocess.crop, num_outputs=spec.num_outputs)
    if embeddings:
        # No classifier does anything after its last layer, so what that answers is what the model answers.
        _last_layer(model, spec.architecture).register_forward_hook(lambda _, inputs, logits: (logits, *inputs))
    return model


def load_model(architecture: str, path: Path, crop: int, *, num_outputs: int | None = None) -> torch.nn.Module:
    """Build ``architecture`` around the weights in ``path``.

    Args:
        architecture: Name of a torchvision classifier.
        path: Weights file.
        crop: Side of the input in pixels; vision transformers are built for one size.
        num_outputs: What the model must answer; taken from the weights when None.

    Raises:
        ModelError: If the weights are damaged or do not fit the architecture.
    """
    state = _modern_names(architecture, read_state_dict(path))
    num_outputs = num_outputs or count_outputs(architecture, state, crop)
    model = _construct(architecture, num_outputs, crop, state)
    state = _fitted(state, model.state_dict(), f"{path.name} for {architecture} with {num_outputs} outputs")
    model.load_state_dict(state, assign=True)
    return model.float().eval()


def count_outputs(architecture: str, state: Mapping[str, torch.Tensor], crop: int) -> int:
    """Read from the weights how many classes they answer.

    The tensors of the last layer are those whose shape follows ``num_classes``.

    Raises:
        ModelError: If the weights lack that layer.
    """
    seven = _construct(architecture, 7, crop, state).state_dict()
    eleven = _construct(architecture, 11, crop, state).state_dict()
    for name in reversed(seven):
        if seven[name].shape != eleven[name].shape and name in state and state[name].ndim:
            return int(state[name].shape[0])
    raise ModelError("the weights do not fit the architecture", found=f"no last layer of {architecture} among them")


def count_features(architecture: str, crop: int) -> int:
    """Return how many numbers an embedding has: the inputs of the architecture's last layer.

    Raises:
        ModelError: If that layer is not linear, so that there are no embeddings.
    """
    return _last_layer(_construct(architecture, 7, crop, ()), architecture).in_features


def _last_layer(model: torch.nn.Module, architecture: str) -> torch.nn.Linear:
    import torch

    linear = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    if not linear:
        raise ModelError(
            "this architecture has no embeddings",
            found=f"no linear layer in {architecture}",
            advice="use --embeddings off or another model",
        )
    return linear[-1]


def _construct(architecture: str, num_outputs: int, crop: int, keys: Iterable[str]) -> torch.nn.Module:
    import torch
    from torchvision.models import get_model

    arguments = _builder_arguments(architecture, crop, keys)
    model: torch.nn.Module
    try:
        # Without memory behind its tensors a model needs no initial values, which take seconds to draw.
        with torch.device("meta"):
            model = get_model(architecture, num_classes=num_outputs, **arguments)
    except NotImplementedError:
        # Regnets compute their widths with tensors and cannot be built that way.
        model = get_model(architecture, num_classes=num_outputs, **arguments)
    return model


def _builder_arguments(architecture: str, crop: int, keys: Iterable[str]) -> dict[str, Any]:
    if architecture in ("inception_v3", "googlenet"):
        # Their published weights expect transform_input, which torchvision sets only when it loads them itself.
        has_aux = any(key.lower().startswith("aux") for key in keys)
        return {"transform_input": True, "init_weights": False, "aux_logits": has_aux}
    if architecture.startswith("vit_"):
        return {"image_size": crop}
    return {"input_size": (crop, crop)} if architecture.startswith("maxvit") else {}


def _modern_names(architecture: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if not architecture.startswith("densenet"):
        return state
    return type(state)((_OLD_DENSENET.sub(r"\1\2", name), tensor) for name, tensor in state.items())


def _fitted(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], subject: str
) -> OrderedDict[str, torch.Tensor]:
    import torch

    counters = {name: torch.tensor(0) for name in expected if name.endswith("num_batches_tracked")}
    fitted = OrderedDict({**counters, **state})
    faults = list(_misfits(fitted, expected))
    if faults:
        raise ModelError(
            "the weights do not fit the architecture",
            found=f"{subject}: {faults[0]}" + (f", and {len(faults) - 1} more" if faults[1:] else ""),
            advice="name the architecture the weights were trained with",
        )
    # Some layers refuse to load where the file does not say which version of them wrote it.
    fitted._metadata = getattr(state, "_metadata", None) or expected._metadata  # type: ignore[attr-defined]
    return fitted


def _misfits(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> Iterable[str]:
    for name, tensor in expected.items():
        if name not in state:
            yield f"{name} is missing"
        elif state[name].shape != tensor.shape:
            yield f"{name} has shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        elif state[name].is_floating_point() and not state[name].isfinite().all():
            yield f"{name} holds values that are not numbers"
    yield from (f"{name} is not part of it" for name in state if name not in expected)
