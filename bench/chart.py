"""Draws runs: a panel a row, a bar a contender, the longer the faster.

    python bench/chart.py bench/results/2026-11-30.json docs/pictures
    python bench/chart.py bench/results/2026-11-30.json --tables

A bar is the median of the rounds, the thin line over it spans their middle half. Nobody is left out,
and nothing is scaled to look well: bars begin at zero. Where other work took part in the run, rates
mean little, and the bars are the server's CPU time instead, the shorter the better. `run.py --png`
draws all rows of a run in one picture; the command above draws those of PICTURES as SVG, for light
and for dark pages, and what was measured, where and with which versions stands under each. --tables
prints the same run in figures, and --promises the bars of bars.py, as docs/performance.md has them.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import loops
import machine
from samples import Run, Spread, read, spread, values

COLUMNS = 4


class Scheme(NamedTuple):
    subject: str
    floor: str
    others: str
    text: str
    faint: str


LIGHT = Scheme("#c8324a", "#4a5260", "#9db4c0", "#1f2328", "#59636e")
DARK = Scheme("#f0687d", "#aab4c0", "#4f6b7c", "#e6edf3", "#9198a1")
SCHEMES = {"light": LIGHT, "dark": DARK}

# The pictures of the pages, and the rows in each.
PICTURES = {
    "overview": ("uvicorn-64", "echo-1KiB-64", "call_soon"),
    "streams": ("echo-1KiB-1", "echo-1KiB-64", "streams-1KiB-64", "sock-1KiB-64"),
    "datagrams": ("datagram-1KiB-1", "datagram-1KiB-64"),
    "http": ("uvicorn-64", "uvicorn-tls-64"),
    "tls": ("tls-echo-1KiB-64", "tls-echo-16KiB-64", "tls-bulk-1", "tls-handshake-16"),
    "micro": (
        "call_soon",
        "call_soon_chain",
        "call_later_cancel",
        "threadsafe_flood",
        "future_wake",
        "sleep0",
        "gather",
        "connect_close",
        "spawn",
    ),
    "frameworks": (
        "uvicorn-h11-64",
        "uvicorn-big-64",
        "uvicorn-post-64",
        "hypercorn-64",
        "aiohttp-64",
        "websockets-1KiB-64",
    ),
    "clients": ("redis-16", "asyncpg-16"),
}
# What a figure is, in a title; {} is the row's unit.
MEASURES = {
    "rate": "{} a second",
    "cpu_us": "CPU µs, less is better",
    "p99_us": "99 of 100 within µs, less is better",
}


def figure_of(run: Run, row: str) -> str:
    """What to draw of a row: its main figure; instead of a rate on a busy machine the CPU time."""
    main = run.rows[row]["main"]
    has_cpu = any(sample.cpu_us is not None for sample in run.of(row))
    return "cpu_us" if main == "rate" and has_cpu and _is_busy(run) else main


def _is_busy(run: Run) -> bool:
    return float(run.machine["load_before"]) > machine.QUIET_LOAD


def title_of(run: Run, row: str, figure: str = "rate") -> str:
    about = run.rows[row]
    return f"{about['title']}: {MEASURES.get(figure, '').format(about['unit'])}"


def draw(run: Run, path: str) -> None:
    """All of a run in one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = -(-len(run.rows) // COLUMNS)
    figure, axes = pyplot.subplots(
        rows, COLUMNS, figsize=(15, 1 + 2.1 * rows), squeeze=False, layout="constrained"
    )
    panels = list(axes.flat)
    for panel, row in zip(panels, run.rows, strict=False):
        _panel(panel, run, row, f"{row}, {run.rows[row]['main']}", LIGHT, 8, run.rows[row]["main"])
    for panel in panels[len(run.rows) :]:
        panel.axis("off")
    about = run.machine
    figure.suptitle(f"{about['python']}, {about['system']}, {about['processor']}")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def picture(run: Run, source: str, rows: Sequence[str], scheme: Scheme, path: Path) -> None:
    """Some rows of a run below each other, narrow enough for a phone, and what they were measured on."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    matplotlib.rcParams["svg.hashsalt"] = path.stem  # the same data, the same bytes
    from matplotlib import pyplot

    lines = list(caption(run, rows))
    bars = [max(len(_shown(run, row, figure_of(run, row))), 1) for row in rows]
    height = sum(0.19 * count + 0.42 for count in bars) + 0.175 * len(lines) + 0.1
    figure = pyplot.figure(figsize=(5.2, height))
    top = height
    for row, count in zip(rows, bars, strict=True):
        top -= 0.34
        size = 0.19 * count
        place = (0.17, (top - size) / height, 0.81, size / height)
        drawn = figure_of(run, row)
        panel = figure.add_axes(place)
        _panel(panel, run, row, title_of(run, row, drawn), scheme, 8.5, drawn, title_at=-0.2)
        top -= size + 0.08
    figure.text(
        0.01,
        0.08 / height,
        "\n".join(lines),
        fontsize=7.5,
        color=scheme.faint,
        va="bottom",
        linespacing=1.4,
    )
    about = {"Date": None, "Source": source}  # by which a test knows an old picture
    figure.savefig(path, transparent=True, metadata=about)
    pyplot.close(figure)


def fingerprint(path: Path) -> str:
    """Of what a file says, however it is written."""
    kept = json.loads(path.read_text())
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def caption(run: Run, rows: Sequence[str]) -> Iterator[str]:
    """When, where, and with what a run was made, and who is not in it."""
    yield from wrap(" ".join([_way(run), _place(run), *_gaps(run, rows)]), 90)


def _way(run: Run) -> str:
    better = "CPU time: less is better. Else longer" if _is_busy(run) else "Longer"
    return (
        f"{better} is faster, if nothing else is said. Medians of {_rounds(run)}, interleaved; the thin "
        "line spans the middle half of them. The floor is C on bare epoll, with OpenSSL for TLS."
    )


def _rounds(run: Run) -> str:
    rounds = max((sample.round for sample in run.samples), default=run.rounds)
    return f"{rounds} rounds of {run.seconds:g} s"


def _place(run: Run) -> str:
    about = run.machine
    facts = [about["date"][:10], about["processor"], f"{about['cores']} cores", about["system"]]
    facts += [about["python"], *_versions(run), about.get("openssl", "")]
    load = about["load_before"]
    noise = (
        f" Other work was under way (load {load:.1f}): rates mean little." if _is_busy(run) else ""
    )
    return ", ".join(filter(None, facts)) + "." + noise


def _gaps(run: Run, rows: Sequence[str]) -> Iterator[str]:
    """Those who could not do a row or broke in it, and those who were not there at all."""
    reasons: dict[str, str] = {}
    for row in rows:
        for contender, reason in run.skipped.get(row, {}).items():
            if contender != loops.FLOOR:
                reasons.setdefault(contender, reason)
        for sample in run.of(row):
            if sample.failure:
                reasons.setdefault(sample.contender, sample.failure.partition("\n")[0])
    for contender, reason in reasons.items():
        yield f"{contender} fails here: {reason.rstrip('.')}."
    if run.absent:
        yield f"Not there: {', '.join(run.absent)}."


def _versions(run: Run) -> Iterator[str]:
    commit = run.machine.get("commit")
    for name, version in run.versions.items():
        if name == loops.SUBJECT and commit:
            yield f"{name} {version} ({commit})"
        elif name not in ("asyncio", loops.FLOOR, *loops.SUBJECTS):
            yield f"{name} {version}"


def _shown(run: Run, row: str, figure: str) -> dict[str, Spread]:
    own = run.of(row)
    found = {c: spread(values(own, row, c, figure).values()) for c in run.versions}
    return {contender: spread for contender, spread in found.items() if spread is not None}


def _panel(
    panel: Any,
    run: Run,
    row: str,
    title: str,
    scheme: Scheme,
    size: float,
    figure: str,
    title_at: float = 0,
) -> None:
    shown = _shown(run, row, figure)
    middle = [each.middle for each in shown.values()]
    around = [
        [each.middle - each.low for each in shown.values()],
        [each.high - each.middle for each in shown.values()],
    ]
    special = {loops.FLOOR: scheme.floor} | dict.fromkeys(loops.SUBJECTS, scheme.subject)
    colours = [special.get(contender, scheme.others) for contender in shown]
    line = {"linewidth": 0.8, "ecolor": scheme.text}
    panel.barh(list(shown), middle, xerr=around, color=colours, error_kw=line)
    for place, each in enumerate(shown.values()):
        digits = 0 if each.middle >= 100 else 1
        text = f" {each.middle:,.{digits}f}"
        panel.text(each.high, place, text, va="center", fontsize=size, color=scheme.text)
    panel.set_title(title, x=title_at, fontsize=size + 0.5, loc="left", color=scheme.text)
    panel.invert_yaxis()
    panel.set_xlim(0, 1.3 * max((each.high for each in shown.values()), default=1))
    panel.set_xticks([])
    panel.tick_params(axis="y", labelsize=size, length=0, labelcolor=scheme.text)
    panel.set_facecolor("none")
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    panel.spines["left"].set_color(scheme.faint)


# The lines of a row in the table of all figures, and their digits.
LINES = {
    "rate": ("{title}: {unit} a second", 0),
    "cpu_us": ("… CPU time for each, µs", 2),
    "p99_us": ("… 99 of 100 within, µs", 0),
}


def tables(run: Run) -> Iterator[str]:
    """The run in figures, as Markdown: the median of each row and contender."""
    contenders = list(run.versions)
    yield f"| | {' | '.join(contenders)} |"
    yield "|---|" + "---:|" * len(contenders)
    for row, about in run.rows.items():
        for figure, (title, digits) in LINES.items():
            shown = _shown(run, row, figure)
            if shown:
                middle = {contender: each.middle for contender, each in shown.items()}
                yield _line(title.format(**about), middle, contenders, digits)
    for kind, weights in run.memory.items():
        title = {"plain": "memory of an idle connection, bytes"}.get(
            kind, f"… over {kind.upper()}, bytes"
        )
        yield _line(title, weights, contenders, 0)
    yield ""
    yield f"{_place(run)} Medians of {_rounds(run)}, interleaved."


def promises(run: Run) -> Iterator[str]:
    """What zloop has promised itself, each held or not, as Markdown."""
    subjects = [each for each in loops.SUBJECTS if each in run.versions]
    found: dict[str, dict[str, str]] = {}
    for verdict in run.bars:
        if verdict["measured"] is not None:
            held = "" if verdict["verdict"] == "holds" else "**"
            cell = f"{held}{verdict['measured']:,.2f}{held}"
            found.setdefault(verdict["bar"], {})[verdict["subject"]] = cell
    yield f"| | {' | '.join(subjects)} |"
    yield "|---|" + "---:|" * len(subjects)
    for bar, cells in found.items():
        title = bar.replace(">=", "≥").replace("<=", "≤")
        yield f"| {title} | {' | '.join(cells.get(each, '') for each in subjects)} |"


def _line(title: str, figures: dict[str, float], contenders: Sequence[str], digits: int) -> str:
    cells = [f"{figures[c]:,.{digits}f}" if c in figures else "" for c in contenders]
    return f"| {title} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("result", type=Path, help="what run.py --json wrote")
    parser.add_argument("folder", type=Path, nargs="?", help="where the pictures go")
    parser.add_argument("--tables", action="store_true", help="print the figures, as Markdown")
    parser.add_argument(
        "--promises", action="store_true", help="print what holds and what does not"
    )
    arguments = parser.parse_args()

    run = read(arguments.result)
    if arguments.tables:
        print("\n".join(tables(run)))
    if arguments.promises:
        print("\n".join(promises(run)))
    if not arguments.folder:
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    source = fingerprint(arguments.result)
    for name, rows in PICTURES.items():
        present = [row for row in rows if row in run.rows]
        for scheme, colours in SCHEMES.items():
            if present:
                path = arguments.folder / f"{name}-{scheme}.svg"
                picture(run, source, present, colours, path)


if __name__ == "__main__":
    main()
