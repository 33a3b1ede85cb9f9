from __future__ import annotations

import os
import pickle
import zipfile

import pytest

from batchrec.errors import ModelError
from batchrec.models import resolve_model
from batchrec.models.building import load_model


class Trap:
    """Runs a command when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path, suffix):
    import torch

    path, mark = tmp_path / f"weights{suffix}", tmp_path / "it-ran"
    torch.save({"fc.weight": torch.zeros(3), "trap": Trap(mark)}, path)
    with pytest.raises(ModelError, match="more than tensors"):
        resolve_model(f"file:{path}+resnet18")
    assert not mark.exists()


def test_a_bare_pickle_is_refused_and_does_not_run(tmp_path):
    path, mark = tmp_path / "weights.pt", tmp_path / "it-ran"
    path.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(ModelError):
        resolve_model(f"file:{path}+resnet18")
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pkl", ".bin", ".ckpt", ""])
def test_other_suffixes_are_refused(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"x")
    with pytest.raises(ModelError, match=r"\.safetensors"):
        resolve_model(f"file:{path}+resnet18")


@pytest.mark.parametrize("keep", [0, 4, 1000, -100])
def test_a_cut_safetensors_file_is_refused_in_one_line(tmp_path, weights_file, keep):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(weights_file.read_bytes()[:keep])
    with pytest.raises(ModelError, match="damaged") as caught:
        resolve_model(f"file:{path}+shufflenet_v2_x0_5")
    assert "\n" not in str(caught.value)


def test_a_damaged_torch_file_is_refused(tmp_path):
    path = tmp_path / "bad.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nothing", b"")
    with pytest.raises(ModelError):
        resolve_model(f"file:{path}+resnet18")


def test_a_whole_model_is_refused(tmp_path):
    import torch

    path = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(ModelError, match="more than tensors"):
        resolve_model(f"file:{path}+resnet18")


@pytest.fixture
def changed(tmp_path, weights_file):
    from safetensors.torch import load_file, save_file

    def save(change):
        state = load_file(weights_file)
        change(state)
        path = tmp_path / "changed.safetensors"
        save_file(state, path)
        return f"file:{path}+shufflenet_v2_x0_5"

    return save


def test_a_missing_tensor_is_named(changed):
    with pytest.raises(ModelError, match=r"conv1\.0\.weight is missing"):
        resolve_model(changed(lambda state: state.pop("conv1.0.weight")))


def narrow_first_kernel(state):
    state["conv1.0.weight"] = state["conv1.0.weight"][..., :1].contiguous()


def test_a_tensor_of_another_shape_is_named(changed):
    with pytest.raises(ModelError, match=r"conv1\.0\.weight has shape \(24, 3, 3, 1\), not \(24, 3, 3, 3\)"):
        resolve_model(
            changed(lambda state: state.update({"conv1.0.weight": state["conv1.0.weight"][..., :1].contiguous()}))
        )


def test_a_tensor_too_many_is_named(changed):
    with pytest.raises(ModelError, match="extra is not part of it"):
        resolve_model(changed(lambda state: state.update(extra=state["fc.bias"].clone())))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(changed, value):
    with pytest.raises(ModelError, match=r"fc\.bias holds values that are not numbers"):
        resolve_model(changed(lambda state: state["fc.bias"].fill_(value)))


def test_a_missing_last_layer_is_told(changed):
    with pytest.raises(ModelError, match="no last layer"):
        resolve_model(changed(lambda state: [state.pop(name) for name in ("fc.weight", "fc.bias")]))


@pytest.mark.parametrize("wrapped", [False, True])
def test_torch_files_of_plain_tensors_load(tmp_path, weights_file, small_model, wrapped):
    import torch
    from safetensors.torch import load_file

    state = load_file(weights_file)
    path = tmp_path / "weights.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}} if wrapped else state, path)
    assert resolve_model(f"file:{path}+shufflenet_v2_x0_5").num_outputs == small_model.num_outputs


@pytest.mark.parametrize(
    ("architecture", "crop"), [("regnet_y_400mf", 64), ("mnasnet0_5", 64), ("squeezenet1_1", 64), ("densenet121", 64)]
)
def test_a_loaded_model_answers_as_the_one_that_was_saved(tmp_path, architecture, crop):
    import torch
    from safetensors.torch import save_file
    from torchvision.models import get_model

    saved = get_model(architecture, num_classes=9).eval()
    save_file({name: tensor.contiguous() for name, tensor in saved.state_dict().items()}, tmp_path / "w.safetensors")
    loaded = load_model(architecture, tmp_path / "w.safetensors", crop)
    images = torch.randn(1, 3, crop, crop)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), saved(images))


def test_names_of_the_published_densenet_files_are_understood(tmp_path):
    import torch
    from torchvision.models import get_model

    state = get_model("densenet121", num_classes=9).state_dict()
    # Written before norms counted their batches.
    old = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): tensor
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    load_model("densenet121", tmp_path / "old.pth", 64)
