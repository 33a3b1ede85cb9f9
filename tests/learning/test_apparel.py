from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from batchrec.learning.apparel import Photograph, read_photographs, split_by_sender
from batchrec.learning.cards import apparel_card
from batchrec.learning.drawing import draw_image
from batchrec.learning.evaluating import count_right, recognise
from batchrec.learning.garments import LABELS
from batchrec.models import resolve_model
from batchrec.models.bundle import read_facts


@pytest.fixture
def photographs():
    return [Photograph(Path(f"{n}.jpg"), str(n % 37) if n % 3 else "many", n % 10) for n in range(900)]


def test_no_sender_is_in_two_parts(photographs):
    splits = split_by_sender(photographs)
    senders = [{photograph.sender for photograph in rows} for rows in splits.values()]
    assert sum(map(len, senders)) == len(set.union(*senders))
    assert sum(map(len, splits.values())) == len(photographs)


def test_the_split_is_fixed_and_large_senders_are_trained_on(photographs):
    splits = split_by_sender(photographs)
    assert splits == split_by_sender(photographs)
    assert "many" in {photograph.sender for photograph in splits["train"]}
    assert len(splits["test"]) == pytest.approx(180, abs=20)


def test_the_table_of_photographs_is_read(test_data):
    found = read_photographs(test_data / "clothing")
    assert len(found) > 2900
    assert {photograph.label for photograph in found} == set(range(10))


def test_the_shipped_model_is_small_and_says_what_it_can():
    model = resolve_model("apparel")
    folder = Path(model.weights_path).parent
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6_000_000
    facts = read_facts(folder)
    low, high = facts["accuracy"]["interval_95"]
    assert low < facts["accuracy"]["top1"] < high
    assert (folder / "card.md").read_text() == apparel_card(facts)
    assert model.labels == LABELS


def test_the_shipped_model_knows_drawings():
    drawn = [draw_image(index, seed=11) for index in range(96)]
    images = [Image.open(io.BytesIO(content)).convert("RGB") for _, content in drawn]
    best = recognise(resolve_model("apparel"), images)
    assert count_right(best, [LABELS.index(label) for label, _ in drawn], LABELS).share > 0.9


def test_the_shipped_model_knows_photographs(test_data):
    splits = split_by_sender(read_photographs(test_data / "clothing"))
    some = splits["test"][::6]
    images = [Image.open(photograph.path).convert("RGB") for photograph in some]
    accuracy = count_right(recognise(resolve_model("apparel"), images), [each.label for each in some], LABELS)
    claimed = read_facts(Path(resolve_model("apparel").weights_path).parent)["accuracy"]["top1"]
    assert abs(accuracy.share - claimed) < 0.12
