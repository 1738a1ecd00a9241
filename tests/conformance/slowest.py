"""Which files took longest: lines for who runs a suite, and for tools/test, which reads them."""

from collections import Counter
from collections.abc import Iterable

MOST = 10


def print_slowest(times: Iterable[tuple[str, float]]) -> None:
    """Print the files with the greatest sums of seconds, as `slow   1.5 s  test_events`."""
    sums: Counter[str] = Counter()
    for file, seconds in times:
        sums[file] += seconds  # type: ignore[assignment]  # Counter adds floats as well
    for file, seconds in sums.most_common(MOST):
        print(f"slow {seconds:6.1f} s  {file}")
