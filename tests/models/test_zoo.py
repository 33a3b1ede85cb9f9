from __future__ import annotations

import dataclasses
import hashlib
import shutil

import pytest

from batchrec.errors import ModelError
from batchrec.models import catalogue, downloading, list_models, resolve_model, zoo
from batchrec.models.catalogue import PublishedWeights, downloads_folder, published_weights
from batchrec.models.preprocessing import Preprocess


def test_apparel_ships_with_the_package():
    spec = resolve_model("apparel")
    assert spec.name == "apparel"
    assert spec.labels[:3] == ("T-Shirt", "Longsleeve", "Pants")
    assert len(spec.labels) == spec.num_outputs == 10


def test_a_file_without_labels_gets_numbered_ones(small_model):
    assert small_model.labels == tuple(f"class_{index}" for index in range(12))
    assert small_model.preprocess == Preprocess(resize=256, crop=224)


def test_the_hash_is_of_the_file(small_model, weights_file):
    assert small_model.weights_sha256 == hashlib.sha256(weights_file.read_bytes()).hexdigest()


def test_labels_come_from_a_file(tmp_path, weights_file):
    (tmp_path / "labels.txt").write_text("\n".join("abcdefghijkl") + "\n", encoding="utf-8-sig")
    spec = resolve_model(f"file:{weights_file}+shufflenet_v2_x0_5", labels=str(tmp_path / "labels.txt"))
    assert spec.labels == tuple("abcdefghijkl")


def test_other_labels_are_another_hash(small_model):
    other = dataclasses.replace(small_model, labels=tuple(reversed(small_model.labels)))
    assert other.labels_sha256 != small_model.labels_sha256


def test_too_few_labels_are_refused_with_both_numbers(tmp_path, weights_file):
    (tmp_path / "labels.txt").write_text("a\nb\n")
    with pytest.raises(ModelError, match=r"2 labels in .*labels\.txt, 12 outputs"):
        resolve_model(f"file:{weights_file}+shufflenet_v2_x0_5", labels=str(tmp_path / "labels.txt"))


def test_imagenet_labels_do_not_fit_twelve_outputs(weights_file):
    with pytest.raises(ModelError, match=r"1000 labels .* 12 outputs"):
        resolve_model(f"torchvision:shufflenet_v2_x0_5@{weights_file}")


def test_a_local_file_of_all_classes_gets_the_published_labels(draw_weights):
    path = draw_weights("shufflenet_v2_x0_5", 1000)
    spec = resolve_model(f"torchvision:shufflenet_v2_x0_5@{path}")
    assert spec.labels[0] == "tench"


@pytest.mark.parametrize("content", ["", "a\n\nb\n"])
def test_blank_labels_are_refused(tmp_path, weights_file, content):
    (tmp_path / "labels.txt").write_text(content)
    with pytest.raises(ModelError, match="one label a line"):
        resolve_model(f"file:{weights_file}+shufflenet_v2_x0_5", labels=str(tmp_path / "labels.txt"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("aparel", "nearest: apparel"),
        ("resnet50", "nearest: torchvision:resnet50"),
        ("torchvision:resnet81", "nearest: resnet18"),
        ("torchvision:resnet18@V9", "it has IMAGENET1K_V1"),
        ("timm:resnet18", "file:PATH"),
        ("file:weights.pt", "does not say its architecture"),
        ("file:absent.pt+resnet18", "not there"),
        ("", "no such model"),
        ("../apparel", "no such model"),
    ],
)
def test_an_unknown_name_is_refused_with_a_hint(name, says):
    with pytest.raises(ModelError, match=says):
        resolve_model(name)


def test_published_preprocessing_is_read_from_torchvision():
    assert published_weights("resnet50")["IMAGENET1K_V2"].preprocess == Preprocess(resize=232, crop=224)
    assert next(iter(published_weights("resnet50"))) == "IMAGENET1K_V2"
    assert published_weights("efficientnet_b0")["IMAGENET1K_V1"].preprocess.interpolation == "bicubic"


def test_every_published_model_is_listed_and_bundled_ones_first():
    models = list_models()
    assert models[0]["name"] == "apparel"
    assert len(models) > 80
    assert {"name", "kind", "ready", "architecture", "num_outputs", "input", "accuracy"} == set(models[0])
    assert any(model["name"] == "torchvision:resnet18@IMAGENET1K_V1" for model in models)


def test_the_downloads_folder_is_the_one_of_torch(monkeypatch):
    import torch

    for name, value in (("TORCH_HOME", None), ("XDG_CACHE_HOME", "/x"), ("TORCH_HOME", "/y")):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        assert str(downloads_folder()) == f"{torch.hub.get_dir()}/checkpoints"


def test_offline_names_the_file_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(ModelError) as caught:
        resolve_model("torchvision:resnet18")
    assert f"put resnet18-f37072fd.pth into {tmp_path}/hub/checkpoints" in str(caught.value)
    assert "file:FILE.safetensors+resnet18" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def in_downloads(tmp_path, monkeypatch, draw_weights):
    """Published weights of our own, lying in the download folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = draw_weights("shufflenet_v2_x0_5", 1000)
    name = f"tiny-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.safetensors"
    downloads_folder().mkdir(parents=True)
    shutil.copy(path, downloads_folder() / name)
    real = catalogue.published_weights("shufflenet_v2_x0_5")["IMAGENET1K_V1"]
    weights = PublishedWeights(real.name, name, real.preprocess, real.labels)
    monkeypatch.setattr(zoo, "published_weights", lambda architecture: {real.name: weights})
    return downloads_folder() / name


@pytest.mark.parametrize("wanted", ["", "@DEFAULT", "@IMAGENET1K_V1"])
def test_downloaded_weights_are_used_without_a_network(in_downloads, wanted):
    assert resolve_model(f"torchvision:shufflenet_v2_x0_5{wanted}").weights_path == str(in_downloads.resolve())


def test_damaged_downloads_are_refused(in_downloads):
    in_downloads.write_bytes(in_downloads.read_bytes()[:-1])
    with pytest.raises(ModelError, match="damaged"):
        downloading.download("shufflenet_v2_x0_5", zoo.published_weights("")["IMAGENET1K_V1"])
