"""`python -m bench [receive|engines] [--rounds N]`: run measurements and write `docs/benchmarks.md`."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench import engines, receive


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("receive", "engines"), default="receive")
    parser.add_argument("--rounds", type=int, default=5, help="how often each cell is measured [%(default)s]")
    parser.add_argument("--only", default="", help="receivers whose name contains this word, and ours")
    parser.add_argument("--cells", default="", help="cells whose name matches this regular expression")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to receive [the temporary folder, then memory]"
    )
    parser.add_argument(
        "--write", type=Path, default=None, help="the report [docs/benchmarks.md, where everything is measured]"
    )
    options = parser.parse_args()
    (engines if options.what == "engines" else receive).run(options)


if __name__ == "__main__":
    main()
