from __future__ import annotations

import json
import pickle

import pytest

from batchrec.errors import ModelError
from batchrec.models import Preprocess, load_bundle, resolve_model, save_bundle
from batchrec.models.bundle import read_facts


def test_a_saved_bundle_loads_as_it_was(bundle):
    spec = load_bundle(bundle)
    assert (spec.architecture, spec.num_outputs) == ("shufflenet_v2_x0_5", 12)
    assert spec.labels == tuple("abcdefghijkl")
    assert spec.preprocess == Preprocess(resize=72, crop=64)
    assert read_facts(bundle) == {"accuracy": {"top1": 0.5}}
    assert (bundle / "card.md").read_text() == "# twelve letters\n"


def test_a_folder_named_as_model_is_its_bundle(bundle):
    assert resolve_model(str(bundle)).labels == load_bundle(bundle).labels


def test_a_model_survives_pickling(small_model):
    assert pickle.loads(pickle.dumps(small_model)) == small_model


@pytest.mark.parametrize("name", ["weights.safetensors", "labels.json"])
def test_a_changed_file_is_refused_by_name(bundle, name):
    content = bytearray((bundle / name).read_bytes())
    content[-3] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"not the one it was saved with.*{name}"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["weights.safetensors", "labels.json", "bundle.json"])
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "version 2, known is 1"),
        ({"format": "other"}, "not a bundle"),
        ({"num_outputs": 11}, "12 labels in labels.json, 11 outputs"),
        ({"num_outputs": "12"}, "num_outputs"),
        ({"preprocess": {"resize": 64}}, "preprocessing"),
        ({"files": None}, "files"),
    ],
)
def test_a_wrong_description_is_refused(bundle, change, says):
    header = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**header, **change}))
    with pytest.raises(ModelError, match=says):
        load_bundle(bundle)


def test_weights_that_answer_another_count_are_refused(bundle):
    header = json.loads((bundle / "bundle.json").read_text())
    header["architecture"] = "mobilenet_v3_small"
    (bundle / "bundle.json").write_text(json.dumps(header))
    with pytest.raises(ModelError, match="do not fit the architecture"):
        resolve_model(str(bundle))


def test_saving_replaces_a_bundle_and_nothing_else(bundle, tmp_path):
    arguments = {
        "architecture": "resnet18",
        "weights": {},
        "labels": ("one",),
        "preprocess": Preprocess(),
        "card": "",
    }
    assert save_bundle(bundle, **arguments).labels == ("one",)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ModelError, match="folder of its own"):
        save_bundle(tmp_path / "mine", **arguments)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".bundle")] == []
