"""Kubernetes objects as the YAML that people read and `kubectl apply -f -` takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml


class _PlainDumper(yaml.SafeDumper):
    """Writes every value out, and text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_PlainDumper.add_representer(str, _text)


def to_yaml(objects: Iterable[dict[str, Any]], *, heading: str = "") -> str:
    """Return objects as one YAML stream.

    Args:
        objects: In this order.
        heading: Comment lines before the first, without their number signs.
    """
    comment = "".join(f"# {line}\n" for line in heading.splitlines())
    documents = (
        yaml.dump(each, Dumper=_PlainDumper, sort_keys=False, width=120, allow_unicode=True) for each in objects
    )
    return comment + "---\n" + "---\n".join(documents)
