"""Writes docs/reference/settings.md and cli.md from the code; --check only compares.

Usage: python docs/generate.py [--check]
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click

from capturekit.cli import main as command_line
from capturekit.settings import Settings

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Made by `python docs/generate.py`: change the code, then run it. -->\n"

SETTINGS_HEAD = """# Settings

Strongest first: arguments of `Settings(...)` and options of the command line, variables of
the environment, a file `.env`, a file `capturekit.toml` (both in the working directory; in
TOML the names are in lower case and without the prefix), the default.

```toml title="capturekit.toml"
data_dir = "/var/lib/capturekit"
port = 8080
rate_limits = { ingest = "30/minute" }
```

A value that cannot work ends the command with exit code 1 and names the setting.
"""

CLI_HEAD = """# The command line

`capturekit COMMAND --help` prints what is on this page. Results go to standard output,
progress and messages to standard error.
"""


def settings_page() -> str:
    """One heading a setting: its type, its default, its description."""
    described = _attribute_docstrings(Settings)
    parts = [SETTINGS_HEAD]
    for name, field in Settings.model_fields.items():
        if name not in described:
            sys.exit(f"the setting {name} has no docstring")
        parts.append(f"## `CAPTUREKIT_{name.upper()}`\n\n{described[name]}\n")
        if field.default is not None and name not in _MACHINE_DEFAULTS:
            parts.append(f"Default: `{_shown(field.default)}`\n")
        elif name in _MACHINE_DEFAULTS:
            parts.append(f"Default: {_MACHINE_DEFAULTS[name]}\n")
    return "\n".join(parts)


_MACHINE_DEFAULTS = {"concurrency": "the number of cores, at most 8"}
"""Defaults that differ from machine to machine, in words."""


def cli_page() -> str:
    """One heading a command: its help, then its arguments and options."""
    root = next(value for value in vars(command_line).values() if isinstance(value, click.Group))
    parts = [CLI_HEAD]
    for path, command in _commands(("capturekit",), root):
        parts.append(f"{'#' * min(len(path), 3)} `{' '.join(path)}`\n")
        parts.append(_help(command) + "\n")
        if rows := [_row(parameter) for parameter in command.params]:
            parts.append("\n".join(["| | |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _commands(
    path: tuple[str, ...], command: click.Command
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        if len(path) > 1:
            yield path, command
        for name in command.list_commands(context):
            if (child := command.get_command(context, name)) and not child.hidden:
                yield from _commands((*path, name), child)
    else:
        yield path, command


def _help(command: click.Command) -> str:
    text = inspect.cleandoc(command.help or "")
    if not text:
        sys.exit(f"the command {command.name} has no help")
    # A paragraph that click must not rewrap, as it is marked for it.
    return text.replace("\b\n", "").partition("\f")[0].strip()


def _row(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Option):
        if not parameter.help:
            sys.exit(f"the option {parameter.opts} has no help")
        names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
        text = parameter.help
        default = parameter.default
        if isinstance(default, str | int | float) and not isinstance(default, bool):
            text += f" Default: `{default}`."
    else:
        names, text = f"`{parameter.make_metavar(_CONTEXT)}`", ""
    text = " ".join(text.split()).replace("|", "\\|")
    return f"| {names} | {text} |"


_CONTEXT = click.Context(click.Command("capturekit"))


def _attribute_docstrings(cls: type) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    found = {}
    for statement, following in pairwise(body):
        is_named = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if is_named and is_text:
            found[statement.target.id] = inspect.cleandoc(following.value.value).replace("``", "`")
    return found


def _shown(default: object) -> str:
    if isinstance(default, dict) and default:
        return ", ".join(f"{name}={rule}" for name, rule in default.items())
    return str(default) if default not in ((), {}) else "none"


def main(arguments: list[str]) -> int:
    """Write the pages, or say which are out of date and return 1."""
    stale = []
    for name, page in (("settings.md", settings_page()), ("cli.md", cli_page())):
        file = REFERENCE / name
        text = NOTE + "\n" + page
        if "--check" not in arguments:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            stale.append(name)
    if stale:
        print(f"out of date: {', '.join(stale)}; run python docs/generate.py")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
