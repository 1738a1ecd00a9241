"""Draws a run: a panel a mode, a bar a contender, the longer the faster.

A bar is the median of the rounds, the thin line over it runs from the slowest to the fastest.
"""

from collections.abc import Sequence
from statistics import median

import loops
from modes import Sample
from report import SUBJECT, values

COLUMNS = 4
COLOURS = {SUBJECT: "#d1495b", loops.FLOOR: "#30343f"}
OTHERS = "#9db4c0"


def draw(
    samples: Sequence[Sample],
    modes: Sequence[str],
    contenders: Sequence[str],
    title: str,
    path: str,
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = -(-len(modes) // COLUMNS)
    figure, axes = pyplot.subplots(
        rows, COLUMNS, figsize=(15, 1 + 2.1 * rows), squeeze=False, layout="constrained"
    )
    panels = list(axes.flat)
    for panel, mode in zip(panels, modes, strict=False):
        _panel(panel, samples, mode, contenders)
    for panel in panels[len(modes) :]:
        panel.axis("off")
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panel(panel, samples, mode, contenders) -> None:  # type: ignore[no-untyped-def]
    found = {c: list(values(samples, mode, c, "rate").values()) for c in contenders}
    shown = [c for c in contenders if found[c]]
    middle = [median(found[c]) for c in shown]
    spread = [
        [m - min(found[c]) for c, m in zip(shown, middle, strict=True)],
        [max(found[c]) - m for c, m in zip(shown, middle, strict=True)],
    ]
    colours = [COLOURS.get(c, OTHERS) for c in shown]
    panel.barh(shown, middle, xerr=spread, color=colours, error_kw={"linewidth": 0.8})
    for place, (contender, rate) in enumerate(zip(shown, middle, strict=True)):
        panel.text(max(found[contender]), place, f" {rate:,.0f}", va="center", fontsize=8)
    panel.set_title(f"{mode}, per second", fontsize=9, loc="left")
    panel.invert_yaxis()
    panel.set_xlim(0, 1.3 * max(max(found[c]) for c in shown) if shown else 1)
    panel.set_xticks([])
    panel.tick_params(axis="y", labelsize=8, length=0)
    panel.spines[["top", "right", "bottom"]].set_visible(False)
