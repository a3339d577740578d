"""The command ``fedtl``: serve a party, keep its identity, verify its audit log."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fedtl.cli import _audit, _identity, _serve

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        What stands behind ``fedtl``; those of the process by default.

    Returns
    -------
    int
        0 if all is well, 1 if not.
    """
    parser = argparse.ArgumentParser(prog="fedtl", description=__doc__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (_serve, _identity, _audit):
        module.add_commands(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except (ImportError, OSError, ValueError) as error:
        print(f"fedtl: {error}", file=sys.stderr)
        return 1
