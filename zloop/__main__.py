"""``python -m zloop program.py args…``: run an unmodified asyncio program on zloop.

Whatever makes a loop by asyncio's default - asyncio.run, asyncio.Runner, asyncio.new_event_loop -
makes a zloop loop in that process. ``-m module args…`` runs a module instead, ``--include`` prints the
folder of the C++ headers, ``--version`` the version.
"""

from __future__ import annotations

import argparse
import asyncio
import asyncio.events
import os
import runpy
import sys

import zloop


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m zloop",
        usage="%(prog)s [-h] [--version] [--include] (-m module | program.py) [args ...]",
        description="Run an asyncio program with zloop as its event loop.",
    )
    parser.add_argument("--version", action="version", version=f"zloop {zloop.__version__}")
    parser.add_argument(
        "--include",
        action="version",
        version=zloop.get_include(),
        help="print the folder of the C++ headers and exit",
    )
    parser.add_argument("-m", dest="module", action="store_true", help="program is a module's name")
    parser.add_argument("program", help="a Python file, a folder with __main__.py, or a module")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="the program's own arguments")
    return parser.parse_args(arguments)


def install() -> None:
    """Make zloop the loop that asyncio makes by default, in this process."""
    for module in (asyncio, asyncio.events):
        module.__dict__["new_event_loop"] = zloop.new_event_loop
    if sys.version_info < (3, 14):
        asyncio.set_event_loop_policy(zloop.EventLoopPolicy())


def main() -> None:
    options = _parse(sys.argv[1:])
    install()
    sys.argv = [options.program, *options.args]
    if options.module:
        runpy.run_module(options.program, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(options.program))
        runpy.run_path(options.program, run_name="__main__")


if __name__ == "__main__":
    main()
