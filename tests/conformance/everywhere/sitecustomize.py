"""Python imports this at start when the directory is on PYTHONPATH: the loop, in children as well.

uvicorn's tests start servers in processes of their own (workers, reload), so a plugin of pytest
would miss half of them. uvicorn's `loop="auto"` takes uvloop where it finds it; here it finds none
unless uvloop is what is judged, in the stock run neither.
"""

import os
import sys

spec = os.environ.get("CONFORMANCE_LOOP", "")
judged = spec.partition(":")[0]

for other in {"uvloop", "zuvloop"} - {judged}:
    sys.modules[other] = None  # type: ignore[assignment]  # "import uvloop" raises ImportError

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
if spec:
    import replace

    replace.install(spec)

if "CONFORMANCE_UVLOOP" in os.environ:  # its own tests: they need one, and get a stand-in
    import stand_in

    sys.modules["uvloop"] = stand_in
del sys.path[0]
