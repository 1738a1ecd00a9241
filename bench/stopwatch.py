"""Times batches of operations, and the CPU that they take, in the process that does them."""

import resource
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

BATCH = 1000


@dataclass
class Stopwatch:
    """Counts the batches that end between the warm-up and the deadline."""

    warmup_seconds: float
    seconds: float
    batch: int = BATCH  # operations in each
    batches: int = 0
    lateness_us: list[float] = field(default_factory=list)  # of a row that measures some delay
    _window: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def __post_init__(self) -> None:
        self._began: tuple[float, ...] | None = None
        self._warm_ns = perf_counter_ns() + int(self.warmup_seconds * 1e9)
        self._deadline_ns = self._warm_ns + int(self.seconds * 1e9)

    def goes_on(self) -> bool:
        """Say, at the end of each batch, whether another should follow."""
        now = perf_counter_ns()
        if self._began is not None:
            self.batches += 1
        elif now >= self._warm_ns:
            self._began = _clocks()
            self.lateness_us.clear()
        if now < self._deadline_ns or not self.batches:
            return True
        self._window = self._began, _clocks()  # type: ignore[assignment]
        return False

    def figures(self) -> dict[str, Any]:
        """What was measured, by the names of a sample."""
        if self._window is None:
            raise RuntimeError("the stopwatch was not run to its end")
        wall, user, system = (b - a for a, b in zip(*self._window, strict=True))
        operations = self.batches * self.batch
        return {
            "rate": operations / wall,
            "cpu_us": (user + system) / operations * 1e6,
            "user_us": user / operations * 1e6,
            "system_us": system / operations * 1e6,
            "server_busy": (user + system) / wall,
            **self._percentiles(),
        }

    def _percentiles(self) -> dict[str, float]:
        late = sorted(self.lateness_us)
        ranks = {"p50_us": 0.5, "p99_us": 0.99, "p999_us": 0.999} if late else {}
        return {name: late[int(rank * len(late))] for name, rank in ranks.items()}


def _clocks() -> tuple[float, float, float]:
    """Seconds: of the wall, and of this process and its ended children in user and system code."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    user, system = sum(u.ru_utime for u in used), sum(u.ru_stime for u in used)
    return perf_counter_ns() / 1e9, user, system
