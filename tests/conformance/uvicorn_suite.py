#!/usr/bin/env python3
"""Run uvicorn's whole test suite on stock asyncio and on zloop, and compare test by test.

python tests/conformance/uvicorn_suite.py                     builds zloop from this checkout
python tests/conformance/uvicorn_suite.py --zloop-wheel W     installs a wheel instead
python tests/conformance/uvicorn_suite.py --no-venv           uses this environment as it is
"""

import sys

from released import Project, judge_by

UVICORN = Project("uvicorn", timeout=60)

if __name__ == "__main__":
    sys.exit(judge_by(UVICORN, __doc__))
