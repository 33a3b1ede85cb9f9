"""Flags of the verbs that define a job, made from the table of settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from batchrec.errors import UsageError
from batchrec.redacting import shown
from batchrec.settable import SETTINGS, Setting
from batchrec.settings import Settings, resolve_settings, unknown_variables

_F = TypeVar("_F", bound=Callable[..., Any])
_SHORT = {"output": "-o", "model": "-m"}


def _option(setting: Setting) -> Callable[[_F], _F]:
    names = [setting.flag, setting.name, *([_SHORT[setting.name]] if setting.name in _SHORT else [])]
    default = f" [default: {setting.default}]" if setting.default not in (None, (), False) else ""
    if setting.default is False:
        return click.option(*names, is_flag=True, flag_value=True, default=None, help=setting.help)
    # Taken as text and parsed in `settings_from`, so that all faults of a command line are told at once.
    return click.option(*names, type=str, multiple=setting.many, help=setting.help + default, metavar=_metavar(setting))


def _metavar(setting: Setting) -> str:
    if setting.choices:
        return f"[{'|'.join(setting.choices)}]"
    return setting.kind.metavar


def job_options(function: _F) -> _F:
    """Add the arguments and flags that define a job; the verb gets them as one ``settings``."""
    for setting in reversed(SETTINGS):
        function = _option(setting)(function)
    function = click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="Any setting of a job file")(
        function
    )
    function = click.option("-j", "--job", "job_file", metavar="JOB.yaml", help="Job file")(function)
    return click.argument("source", nargs=-1)(function)


def settings_from(
    source: tuple[str, ...], job_file: str | None, sets: tuple[str, ...], flags: dict[str, Any]
) -> Settings:
    """Return the settings of one command line.

    Raises:
        UsageError: Flags have values that cannot be; all are listed.
    """
    given, faults = {}, []
    for setting in SETTINGS:
        if (value := flags.get(setting.name)) not in (None, ()):
            try:
                given[setting.name] = _parsed(setting, value)
            except ValueError as error:
                faults.append(f"{setting.flag}: {error}")
    if faults:
        raise UsageError("the command line is not valid: " + "; ".join(faults), advice="correct all of them")
    if unread := unknown_variables(os.environ):
        click.echo(f"batchrec: ignored, as no setting has that name: {shown('; '.join(unread))}", err=True)
    return resolve_settings(source, given, sets=sets, environ=os.environ, job_file=job_file)


def _parsed(setting: Setting, value: Any) -> Any:
    return value if setting.many or isinstance(value, bool) else setting.parse(value)
