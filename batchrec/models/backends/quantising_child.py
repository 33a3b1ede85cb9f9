"""The process that quantises one model, so that neither its memory nor what it prints is the coordinator's.

It is given a folder with the full graph and batches for it, and leaves the quantised graph beside them.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import numpy as np

from batchrec.models.backends.openvino_cpu import import_openvino, save_graph
from batchrec.models.backends.quantising import GRAPH, IMAGES, QUANTISED, WITHIN_S


def main(folder: Path) -> None:
    """Quantise the graph in a folder by the images in it."""
    signal.alarm(int(WITHIN_S) + 1)  # whoever asked may be gone
    openvino = import_openvino()  # first: it keeps the reporting of both libraries quiet
    import nncf

    batches = np.load(folder / IMAGES)
    graph = openvino.Core().read_model(folder / GRAPH / "model.xml")
    made = nncf.quantize(graph, nncf.Dataset(list(batches)), subset_size=len(batches))
    save_graph(made, folder / QUANTISED)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
