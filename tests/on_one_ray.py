"""Commands typed one after another on one Ray: starting it costs more than most of them.

    python -m tests.on_one_ray

Each line of its input is a JSON list, the words of a command and the file for what that says; each is answered with a
line, its exit code.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path


def main() -> None:
    from batchrec.cli.main import run
    from batchrec.engine.ray_local import LocalRay

    with closing(LocalRay(2)) as local:
        local.wait()
        for line in sys.stdin:
            words, said = json.loads(line)
            with Path(said).open("w") as file, redirect_stdout(file), redirect_stderr(file):
                code = run(words)
            print(code, flush=True)


if __name__ == "__main__":
    main()
