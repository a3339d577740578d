"""Speed and memory as ratios against a named floor, in one run: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import platform

from benchmarks import rounds, speed

BENCHMARKS = {**speed.BENCHMARKS, **rounds.BENCHMARKS}


def main() -> None:
    """Print one line for each ratio: median, range, bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{platform.python_implementation()} {platform.python_version()}")
    for name in options.names or BENCHMARKS:
        for line in BENCHMARKS[name](options.repeats):
            print(line, flush=True)


if __name__ == "__main__":
    main()
