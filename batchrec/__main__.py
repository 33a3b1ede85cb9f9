"""``python -m batchrec`` is ``batchrec``."""

from batchrec.cli.main import main

main()
