"""The ``pyvmm`` command and its way with errors: a person's mistake is one line on stderr and exit status 2."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from pyvmm.errors import PyvmmError, one_line

COMMANDS = {  # name: (module, what `pyvmm --help` says of it); modules are imported when their command is used
    "run": ("pyvmm.cli.run", "Boot one PV kernel and tell what it did."),
    "create": ("pyvmm.cli.create", "Boot several guests from configuration files on one host."),
    "serve": ("pyvmm.cli.serve", "Keep a host running, with its XenStore on a Unix socket."),
    "compare": ("pyvmm.cli.compare", "Compare toolstack designs, instruction by instruction."),
    "figures": ("pyvmm.cli.figures", "Redraw the LightVM paper's figures for our guests, as one page."),
    "images": ("pyvmm.cli.images", "List the guest images that ship with pyvmm, or build them again."),
}


class Commands(click.Group):
    """A group that imports a command's module only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command object, or None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        from importlib import import_module

        command: click.Command = import_module(COMMANDS[cmd_name][0]).command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Here and not in `main`, for click has its own idea of a broken pipe."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output is gone (`pyvmm run hello | head`): nothing left to say, and no flush at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list for --help, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pyvmm")
def cli() -> None:
    """pyvmm: an emulated x86-64 machine that is a Xen host. Real PV guests boot on it; every instruction is counted."""


def _mistake(error: click.ClickException) -> str:
    """What click says of a command line, as one line in our way, with where to read how it should be."""
    said = " ".join(error.format_message().split()).removesuffix(".").replace(". (", " (")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return one_line(said[:1].lower() + said[1:]) + (f" (see {context.command_path} --help)" if context else "")


def main() -> None:
    """Entry point: runs the command and turns errors into exit statuses."""
    # numpy's linear algebra is not used: its threads would only spin for a while at every start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        status = cli.main(prog_name="pyvmm", standalone_mode=False)
    except click.ClickException as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            error.show()  # `pyvmm` alone asks for help; click 8.1 has no error for it
        else:
            print(f"pyvmm: {_mistake(error)}", file=sys.stderr)
        sys.exit(2)
    except click.exceptions.Exit as error:
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("pyvmm: interrupted", file=sys.stderr)
        sys.exit(130)
    except PyvmmError as error:
        print(f"pyvmm: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except OSError as error:
        # What cannot be opened is told where it is opened; this is a full disk, or a device that failed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        where = "" if error.filename is None else f" ({error.filename})"
        print(f"pyvmm: writing failed: {error.strerror or error}{where}", file=sys.stderr)
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)
