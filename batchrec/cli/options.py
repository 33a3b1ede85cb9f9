"""Flags of the verbs that define a job, made from the table of settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from batchrec.settings import SETTINGS, Setting, Settings, resolve_settings

_F = TypeVar("_F", bound=Callable[..., Any])
_SHORT = {"output": "-o", "model": "-m"}


class _Parsed(click.ParamType[Any]):
    """A value parsed as the table of settings says."""

    def __init__(self, setting: Setting) -> None:
        self.name = setting.name
        self._parse = setting.parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _option(setting: Setting) -> Callable[[_F], _F]:
    names = [setting.flag, setting.name, *([_SHORT[setting.name]] if setting.name in _SHORT else [])]
    default = f" [default: {setting.default}]" if setting.default not in (None, (), False) else ""
    if setting.default is False:
        return click.option(*names, is_flag=True, flag_value=True, default=None, help=setting.help)
    kind = click.Choice(setting.choices) if setting.choices else _Parsed(setting)
    return click.option(
        *names, type=kind, multiple=setting.many, help=setting.help + default, metavar=_metavar(setting)
    )


def _metavar(setting: Setting) -> str | None:
    return None if setting.choices else {int: "N", float: "X", str: "TEXT"}.get(setting.parse, "VALUE")  # type: ignore[call-overload]


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
    """Return the settings of one command line."""
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    return resolve_settings(source, given, sets=sets, environ=os.environ, job_file=job_file)
