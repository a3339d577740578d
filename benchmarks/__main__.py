"""Speed and memory as ratios against a named floor, in one run: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import platform

from benchmarks import distance, protection, psi, remote, rounds, speed

BENCHMARKS = {
    **speed.BENCHMARKS,
    **rounds.BENCHMARKS,
    **remote.BENCHMARKS,
    **distance.BENCHMARKS,
    **protection.BENCHMARKS,
}


def main() -> None:
    """Print one line for each ratio: median, range, bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", help=f"of {', '.join([*BENCHMARKS, 'alignment', 'peers'])}"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--install",
        action="store_true",
        help="install what is compared with into temporary environments",
    )
    options = parser.parse_args()
    benchmarks = {
        **BENCHMARKS,
        "alignment": lambda repeats: psi.alignment(repeats, options.install),
        "peers": lambda repeats: rounds.peers(repeats, options.install),
    }
    print(f"{platform.python_implementation()} {platform.python_version()}")
    for name in options.names or benchmarks:
        for line in benchmarks[name](options.repeats):
            print(line, flush=True)


if __name__ == "__main__":
    main()
