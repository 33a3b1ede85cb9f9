"""The command ``batchrec``: results on stdout, everything else on stderr, exit codes of the error tree."""

from __future__ import annotations

import json
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import click

from batchrec.cli.jobs import plan, submit
from batchrec.cli.machine import doctor
from batchrec.cli.models import models
from batchrec.cli.outputs import errors, report, status, verify
from batchrec.cli.samples import sample
from batchrec.errors import BatchrecError

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143


class Terminated(BaseException):
    """SIGTERM came: stop like an interrupt would."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="batchrec")
def cli() -> None:
    """Recognise every image of an archive once: from a Parquet manifest to Parquet predictions."""


for verb in (submit, plan, status, report, errors, verify, models, sample, doctor):
    cli.add_command(verb)


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, _terminate)
    code = run(sys.argv[1:])
    sys.stdout.flush()
    sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors are printed, not raised."""
    try:
        result = cli.main(arguments, prog_name="batchrec", standalone_mode=False)
    except BatchrecError as error:
        return _complain(error, as_json="--json" in arguments)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: the same command resumes", err=True)
        return EXIT_INTERRUPTED
    except Terminated:
        click.echo("terminated: the same command resumes", err=True)
        return EXIT_TERMINATED
    except BrokenPipeError:
        # The reader of our output is gone (`| head`): nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


def _complain(error: BatchrecError, *, as_json: bool) -> int:
    if as_json:
        facts: dict[str, Any] = {"kind": type(error).__name__, "cause": error.cause, "found": error.found}
        click.echo(json.dumps({"exit_code": error.exit_code, "error": {**facts, "advice": error.advice}}, indent=1))
    click.echo(f"batchrec: {error}", err=True)
    return error.exit_code
