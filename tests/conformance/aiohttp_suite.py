#!/usr/bin/env python3
"""Run aiohttp's whole test suite on stock asyncio and on zloop, and compare test by test.

python tests/conformance/aiohttp_suite.py                      builds zloop from this checkout
python tests/conformance/aiohttp_suite.py --zloop-wheel W      installs a wheel instead
"""

import sys

from released import Project, judge_by

# Its tests start programs, and import what is compiled, from the source's folder: that is where it is installed.
AIOHTTP = Project("aiohttp", timeout=60, editable=True)

if __name__ == "__main__":
    sys.exit(judge_by(AIOHTTP, __doc__))
