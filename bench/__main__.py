"""`python -m bench [all|receive|engines|export|backfill|read]`: run measurements and write `docs/benchmarks.md`."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench import backfill, engines, export, read, receive

MEASURED = {"receive": receive, "engines": engines, "export": export, "backfill": backfill, "read": read}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("all", *MEASURED), default="all")
    parser.add_argument("--rounds", type=int, default=5, help="how often each cell is measured [%(default)s]")
    parser.add_argument("--only", default="", help="receivers whose name contains this word, and ours")
    parser.add_argument("--cells", default="", help="rows whose name matches this regular expression")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to receive and export [the temporary folder, then memory]"
    )
    parser.add_argument(
        "--write", type=Path, default=None, help="the report [docs/benchmarks.md, where everything is measured]"
    )
    parser.add_argument(
        "--size", choices=("full", "quick", "smallest"), default="full", help="of the inputs [%(default)s]"
    )
    parser.add_argument(
        "--quick",
        action="store_const",
        const="quick",
        default="full",
        dest="size",
        help="a tenth of the inputs, for a machine in use",
    )
    options = parser.parse_args()
    for name, module in MEASURED.items():
        if options.what in {"all", name}:
            module.run(options)


if __name__ == "__main__":
    main()
