"""The command, and ``python -m batchrec``."""

import os
import sys


def main() -> None:
    """Run the command line; an interrupt is one also while everything is still being imported."""
    try:
        from batchrec.own_process import leave_out_pandas

        leave_out_pandas()
        from batchrec.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        os._exit(130)
    run()


if __name__ == "__main__":
    main()
