from __future__ import annotations

import hashlib
import io

import pyarrow.parquet as pq
import pytest
import simplejpeg
from PIL import Image

from batchrec.errors import AccessError, UsageError
from batchrec.learning.breaking import BROKEN_KINDS, break_image
from batchrec.learning.drawing import draw_archive, draw_image
from batchrec.learning.garments import LABELS


def fingerprint(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    draw_archive(folder, num_images=60, broken=0.2, seed=3)
    return folder


def rows(folder):
    return pq.read_table(folder / "manifest.parquet").to_pylist()


def sizes(folder):
    whole = (row["uri"] for row in rows(folder) if row["broken"] is None)
    return {simplejpeg.decode_jpeg_header((folder / uri).read_bytes())[:2][::-1] for uri in whole}


def test_the_same_seed_draws_the_same_bytes(archive, tmp_path):
    draw_archive(tmp_path / "again", num_images=60, broken=0.2, seed=3)
    assert fingerprint(tmp_path / "again") == fingerprint(archive)


def test_another_seed_draws_other_images(archive, tmp_path):
    draw_archive(tmp_path / "other", num_images=5, seed=4)
    assert not set(fingerprint(tmp_path / "other").values()) & set(fingerprint(archive).values())


def test_every_row_has_its_image_and_label(archive):
    assert [row["image_id"] for row in rows(archive)] == [f"garment-{index:09d}" for index in range(60)]
    for row in rows(archive):
        assert row["label"] in LABELS
        if row["broken"] is None:
            with Image.open(archive / row["uri"]) as image:
                image.load()
                assert (image.format, image.mode) == ("JPEG", "RGB")


def test_sizes_vary_unless_one_is_asked_for(archive, tmp_path):
    assert len(sizes(archive)) > 20
    draw_archive(tmp_path, num_images=4, size=(500, 375))
    assert sizes(tmp_path) == {(500, 375)}


def test_an_image_of_500_by_375_has_about_110_kilobytes():
    mean_bytes = sum(len(draw_image(index, seed=8, size=(500, 375))[1]) for index in range(60)) / 60
    assert 95_000 < mean_bytes < 125_000


def test_the_broken_share_is_exact_and_every_kind_occurs(archive):
    kinds = [row["broken"] for row in rows(archive) if row["broken"]]
    assert len(kinds) == 12
    assert set(kinds) == set(BROKEN_KINDS)


def test_broken_images_are_really_broken(archive):
    for row in rows(archive):
        path = archive / row["uri"]
        if row["broken"] == "missing":
            assert not path.exists()
        elif row["broken"]:
            with pytest.raises((OSError, Image.DecompressionBombError)), Image.open(path) as image:
                image.load()


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("truncated", b"\xff\xd8"),
        ("empty", b""),
        ("html", b"<!DOCTYPE"),
        ("wrong_extension", b"%PDF"),
        ("bomb", b"\xff\xd8"),
    ],
)
def test_each_kind_looks_as_it_does_in_archives(kind, start):
    assert break_image(draw_image(0, seed=0)[1], kind).startswith(start)


def test_a_bomb_claims_more_pixels_than_anyone_has(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with Image.open(io.BytesIO(break_image(draw_image(0, seed=0)[1], "bomb"))) as image:
        assert image.size == (65_500, 65_500)


def test_a_folder_holds_a_thousand_images(tmp_path, monkeypatch):
    from batchrec.learning import drawing

    monkeypatch.setattr(drawing, "draw_image", lambda index, **_: (LABELS[0], b"\xff"))
    draw_archive(tmp_path, num_images=2001)
    assert sorted(len(list(folder.iterdir())) for folder in (tmp_path / "images").iterdir()) == [1, 1000, 1000]


def test_rows_are_written_in_groups(tmp_path, monkeypatch):
    from batchrec.learning import drawing

    monkeypatch.setattr(drawing, "draw_image", lambda index, **_: (LABELS[0], b"\xff"))
    monkeypatch.setattr(drawing, "ROWS_PER_GROUP", 8)
    manifest = pq.ParquetFile(draw_archive(tmp_path, num_images=20))
    assert [manifest.metadata.row_group(index).num_rows for index in range(3)] == [8, 8, 4]


def test_progress_counts_up_to_the_end(tmp_path):
    seen = []
    draw_archive(tmp_path, num_images=101, size=(32, 32), progress=seen.append)
    assert seen == [50, 100, 101]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("size", [(32, 32), (2000, 40), (40, 1500)])
def test_odd_sizes_are_drawn_too(label, size):
    import numpy as np

    from batchrec.learning.painting import paint_garment

    assert paint_garment(label, size, np.random.default_rng(0), grain=5).size == size


@pytest.mark.parametrize(
    "wrong", [{"num_images": 0}, {"num_images": 5, "broken": 1.5}, {"num_images": 5, "size": (0, 100)}]
)
def test_nonsense_is_refused(tmp_path, wrong):
    with pytest.raises(UsageError):
        draw_archive(tmp_path, **wrong)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AccessError, match="cannot be written"):
        draw_archive(tmp_path / "file" / "archive", num_images=1)
