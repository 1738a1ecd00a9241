"""A server process on one event loop: `python bench/serve.py uvloop parts 4`.

It prints `port N`, or `path NAME`, once it listens on 127.0.0.1, and runs until it is terminated.
"""

import argparse
import asyncio
import resource

import frameworks
import loops
import servers

SERVERS = {**servers.SERVERS, **frameworks.SERVERS}


def allow_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("loop", choices=loops.LOOPS)
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("arguments", nargs="*", help="of that server")
    arguments = parser.parse_args()

    allow_descriptors()
    make = loops.factory(arguments.loop)
    given = [make] if arguments.server == "threads" else arguments.arguments
    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(SERVERS[arguments.server](*given))


if __name__ == "__main__":
    main()
