"""The command ``batchrec``: results on stdout, everything else on stderr, exit codes of the error tree."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

import click

from batchrec.cli.afterwards import compact, export, repair, retry
from batchrec.cli.archives import index
from batchrec.cli.clusters import list_submissions, logs, stop
from batchrec.cli.handing import wait
from batchrec.cli.jobs import plan, submit
from batchrec.cli.kubernetes import k8s
from batchrec.cli.machine import bench, doctor
from batchrec.cli.models import models
from batchrec.cli.outputs import errors, report, status, verify
from batchrec.cli.running import run as run_job_file
from batchrec.cli.samples import sample
from batchrec.cli.schemas import schema
from batchrec.cli.telling import ReaderGone, silence
from batchrec.errors import BatchrecError, StorageLost, UsageError
from batchrec.redacting import shown

EXIT_INTERRUPTED, EXIT_SIGNALLED = 130, 128
#: Verbs that go on where they stopped; the others begin anew, and some want a new place for it.
_GO_ON = (["submit"], ["run"], ["retry"], ["repair"], ["wait"])


class Terminated(BaseException):
    """SIGTERM or SIGHUP came: stop like an interrupt would."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Verbs(click.Group):
    """The verbs; leaves broken pipes to :func:`run`."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # click itself would exit with 1, which is the code of a bug.
            raise ReaderGone from error


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="batchrec")
def cli() -> None:
    """Recognise every image of an archive once: from a Parquet manifest to Parquet predictions."""


for verb in (
    submit,
    plan,
    run_job_file,
    status,
    logs,
    stop,
    wait,
    list_submissions,
    report,
    errors,
    verify,
    retry,
    export,
    compact,
    repair,
    models,
    sample,
    index,
    bench,
    doctor,
    schema,
    k8s,
):
    cli.add_command(verb)


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names of files and columns need not be text, nor the terminal's encoding know every letter.
            stream.reconfigure(errors="backslashreplace")
    code = run(sys.argv[1:])
    if code > EXIT_SIGNALLED:
        # Asked to stop, and everything is put away: what a thread of a library still does is not waited for.
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated(number)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors are printed, not raised."""
    try:
        result = cli.main(arguments, prog_name="batchrec", standalone_mode=False)
    except BatchrecError as error:
        return _complain(error, as_json="--json" in arguments)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _complain(_in_our_words(error), as_json="--json" in arguments)
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"interrupted{_resumes(arguments)}", err=True)
        return EXIT_INTERRUPTED
    except Terminated as ended:
        click.echo(f"terminated{_resumes(arguments)}", err=True)
        return EXIT_SIGNALLED + ended.number
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        click.echo("batchrec: no space is left for what this command prints", err=True)
        silence(sys.stdout)
        return StorageLost.exit_code
    except ReaderGone:
        silence(sys.stdout)
        return 0
    return result if isinstance(result, int) else 0


def _resumes(arguments: list[str]) -> str:
    return ": the same command resumes" if arguments[:1] in _GO_ON else ""


def _in_our_words(error: click.ClickException) -> UsageError:
    """Return what click says of a command line in the form of all other errors."""
    verb = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "batchrec"
    said, _, near = error.format_message().partition("Did you mean")
    advice = f"did you mean{near}" if near else f"see `{verb} --help`"
    return UsageError(said.strip().rstrip("."), advice=advice)


def _complain(error: BatchrecError, *, as_json: bool) -> int:
    if as_json:
        said = {"cause": error.cause, "found": error.found, "advice": error.advice}
        facts = {"kind": type(error).__name__, **{name: shown(text) for name, text in said.items()}}
        click.echo(json.dumps({"exit_code": error.exit_code, "error": facts}, indent=1))
    click.echo(f"batchrec: {shown(' '.join(str(error).splitlines()))}", err=True)
    return error.exit_code
