#!/usr/bin/env python3
"""Run anyio's whole test suite on stock asyncio and on zloop, and compare test by test.

    python tests/conformance/anyio_suite.py                      builds zloop from this checkout
    python tests/conformance/anyio_suite.py --zloop-wheel W      installs a wheel instead

From Python 3.12 on each test comes twice by itself: as it is, and on a loop with eager tasks. Those
for trio are skipped, and those for uvloop.
"""

import sys

from released import Project, judge_by

ANYIO = Project("anyio", timeout=60)

if __name__ == "__main__":
    sys.exit(judge_by(ANYIO, __doc__))
