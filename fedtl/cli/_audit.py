"""``fedtl audit``: verify a log, and print the line to note down."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fedtl.server import Head, verify


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    audit = commands.add_parser("audit", help="verify an audit log")
    actions = audit.add_subparsers(title="actions", required=True, metavar="ACTION")
    parser = actions.add_parser("verify", help="find changed, removed and reordered lines")
    parser.add_argument("file", type=Path, help="the audit log")
    parser.add_argument(
        "--head",
        type=Head.parse,
        help="NUMBER:HASH of a line, as an earlier verification printed it; finds an end that "
        "was cut off since",
    )
    parser.set_defaults(run=verify_log)


def verify_log(options: argparse.Namespace) -> int:
    """Verify a log and print what was found."""
    verdict = verify(options.file, options.head)
    for note in verdict.notes:
        print(f"note: {note}")
    for problem in verdict.problems[:20]:
        print(f"problem: {problem}")
    if len(verdict.problems) > 20:
        print(f"and {len(verdict.problems) - 20} more problems")
    print(f"head: {verdict.head}")
    print("not as it was written" if verdict.problems else "as it was written")
    return 1 if verdict.problems else 0
