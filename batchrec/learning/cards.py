"""What a bundle says of itself to people."""

from __future__ import annotations

from typing import Any

_APPAREL = """\
# apparel

Recognises ten garments: {labels}.

| measured once, after everything was chosen | right | 95 % interval (Wilson) | images |
|---|---|---|---|
| photographs of senders never seen in training | **{top1:.1%}** | {low:.1%} to {high:.1%} | {num_images} |
| drawings of unseen seeds | {drawn_top1:.1%} | {drawn_low:.1%} to {drawn_high:.1%} | {num_drawn} |

The interval takes photographs as independent; those of one sender are alike, so the truth is somewhat wider.

| garment | recall on the photographs | on the drawings |
|---|---|---|
{recalls}

**Data.** Part of the public clothing-dataset of A. Grigorev, licence CC0, and drawings made by `batchrec sample`.
Split by sender: {split}. Senders of more than 100 photographs are all in train. {num_drawn_train} drawings
were added to train.

**Model.** torchvision's {architecture}, trained from scratch for {epochs} epochs by `python -m
batchrec.learning.apparel`; half-precision weights of {megabytes:.1f} MB; input {side} x {side} pixels.{remark}

**Limits.** It always answers one of its ten labels, also for what is no garment. One garment to an image, mostly flat
or hung; made for demonstration, tests and a first look at an archive, not for decisions that matter.
"""


def apparel_card(facts: dict[str, Any]) -> str:
    """Write the card of the bundled model from what was measured."""
    real, drawn = facts["accuracy"], facts["accuracy_drawn"]
    recalls = [
        f"| {label} | {share:.0%} | {drawn['recall'].get(label, float('nan')):.0%} |"
        for label, share in real["recall"].items()
    ]
    split = [f"{name} {part['photographs']} ({part['senders']} senders)" for name, part in facts["split"].items()]
    return _APPAREL.format(
        labels=", ".join(real["recall"]),
        top1=real["top1"],
        low=real["interval_95"][0],
        high=real["interval_95"][1],
        num_images=real["num_images"],
        drawn_top1=drawn["top1"],
        drawn_low=drawn["interval_95"][0],
        drawn_high=drawn["interval_95"][1],
        num_drawn=drawn["num_images"],
        recalls="\n".join(recalls),
        split=", ".join(split),
        num_drawn_train=facts["num_drawn_train"],
        architecture=facts["architecture"],
        epochs=facts["epochs"],
        megabytes=facts["weights_bytes"] / 1e6,
        side=facts["side"],
        remark=f" {facts['remark']}" if facts.get("remark") else "",
    )
