"""sixfold doctor: what is installed, and what each part is for."""

from dataclasses import asdict

import click

from cli.options import json_option
from cli.terminal import print_json, print_table


@click.command(short_help="Say what is installed, and what each part is for.", epilog="Example: sixfold doctor --json")
@json_option
def command(as_json: bool) -> int:
    """Say what is installed on this machine of all that sixfold can use: the build of PyTorch, GPUs, kernels, engines,
    a sandbox, a token; what each is for, and how to get what is missing. Exit code 1 if something is missing that
    every command needs. No secret is printed."""
    from cli.installed import parts

    found = list(parts())
    if as_json:
        print_json([asdict(part) for part in found])
    else:
        print_table(("part", "found", "for"), [(p.name, p.found or "-", p.use) for p in found])
        missing = [part for part in found if not part.found and part.remedy]
        if missing:
            click.echo("\nTo get what is missing:")
        for part in missing:
            click.echo(f"  {part.name}: {part.remedy}")
    return 1 if any(part.needed and not part.found for part in found) else 0
