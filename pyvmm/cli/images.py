"""``pyvmm images``: what ships, and how to build it again."""

from __future__ import annotations

import json

import click

from pyvmm import images
from pyvmm.errors import PyvmmError


@click.group("images", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the guest images that ship with pyvmm, or build them again."""
    if ctx.invoked_subcommand is not None:
        return
    manifest = images.manifest()
    if as_json:
        click.echo(json.dumps(manifest, indent=2, sort_keys=True))
        return
    for name in images.names():
        record = manifest["images"][name]
        click.echo(f"{name:<12} {record['sha256'][:16]}  {record['description']}")
    click.echo(f"built with {manifest['compiler']}")


@command.command("build")
@click.argument("names", nargs=-1)
def build(names: tuple[str, ...]) -> None:
    """Build the named images (default: all) from guests/ with the pinned compiler, in a checkout."""
    from pyvmm.images.build import ALL, GUESTS, BuildError, build_all

    known = [guest.name for guest in ALL]
    for name in names:
        if name not in known:
            raise click.BadParameter(f"no guest {name!r}; there are: {', '.join(known)}", param_hint="NAMES")
    if not GUESTS.is_dir():
        raise PyvmmError(
            "the guests' sources are not here: `pyvmm images build` works in a checkout, not in an installed package"
        )
    try:
        manifest = build_all(only=names)
    except BuildError as error:
        raise PyvmmError(str(error)) from error
    for name, record in manifest["images"].items():
        click.echo(f"{name:<12} {record['sha256']}")
