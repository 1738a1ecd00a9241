#!/usr/bin/env python3
"""Run uvloop's own tests on stock asyncio and on zloop, and compare test by test.

    python tests/conformance/uvloop_suite.py                      builds zloop from this checkout
    python tests/conformance/uvloop_suite.py --zloop-wheel W      installs a wheel instead

Most of its tests come twice, once for uvloop and once for asyncio. Here both run on the loop in
question: stand_in.py takes uvloop's name. What only uvloop does fails on stock as well, and is no
difference; where uvloop's tests and asyncio disagree, asyncio is right.
"""

import sys

from released import Project, judge_by

# Three tests hang on stock, which ends their processes.
UVLOOP = Project(
    "uvloop",
    timeout=30,
    installed=False,
    options=("--capture=no",),  # as its own: there are tests of what a child does with our output
    variables={"CONFORMANCE_UVLOOP": "uvloop"},
)

if __name__ == "__main__":
    sys.exit(judge_by(UVLOOP, __doc__))
