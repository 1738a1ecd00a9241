"""Draws runs: a panel a mode, a bar a contender, the longer the faster.

    python bench/chart.py bench/results/2026-11-30.json docs/pictures
    python bench/chart.py bench/results/2026-11-30.json --tables

A bar is the median of the rounds, the thin line over it runs from the slowest to the fastest. Nobody is
left out, and nothing is scaled to look well: bars begin at zero. Where other work took part in the run,
rates mean little, and the bars are the server's CPU time instead, the shorter the better. `run.py --png` draws all modes of a run
in one picture; the command above draws those of PICTURES as SVG, for light and for dark pages, and what
was measured, where and with which versions stands under each. --tables prints the same run in figures,
as docs/performance.md has them.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from textwrap import wrap
from typing import Any, NamedTuple

import loops
import report
from modes import Sample
from report import SUBJECT, values

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

# The pictures of the pages, and the modes in each.
PICTURES = {
    "overview": ("uvicorn-64", "echo-1KiB-64", "call_soon"),
    "streams": ("echo-1KiB-1", "echo-1KiB-64", "streams-1KiB-64", "sock-1KiB-64"),
    "datagrams": ("datagram-1KiB-1", "datagram-1KiB-64"),
    "http": ("uvicorn-64", "uvicorn-tls-64"),
    "tls": ("tls-echo-1KiB-64", "tls-echo-16KiB-64", "tls-bulk-1", "tls-handshake-16"),
    "micro": (
        "call_soon",
        "call_later_cancel",
        "call_soon_threadsafe",
        "future_wake",
        "sleep0",
        "spawn",
    ),
}
TITLES = {
    "uvicorn": "uvicorn, plain text: requests a second",
    "uvicorn-tls": "uvicorn over TLS: requests a second",
    "echo": "protocol echo{size}: messages a second",
    "parts": "protocol echo in parts{size}: messages a second",
    "streams": "asyncio streams, echo{size}: messages a second",
    "sock": "sock_recv, sock_sendall{size}: messages a second",
    "datagram": "UDP echo{size}: messages a second",
    "tls-echo": "TLS echo{size}: messages a second",
    "tls-bulk": "TLS, one connection that sends: MiB a second",
    "tls-handshake": "TLS handshakes: handshakes a second",
    "call_soon": "call_soon, and the call: a second",
    "call_later_cancel": "call_later, and its cancel: a second",
    "call_soon_threadsafe": "call_soon_threadsafe, and the call: a second",
    "future_wake": "a future that wakes a task: a second",
    "sleep0": "asyncio.sleep(0): a second",
    "spawn": "child processes, from start to end: a second",
}


def figure_of(result: dict[str, Any], mode: str) -> str:
    """What to draw of a mode: the rate; on a busy machine the CPU time, where there is one."""
    served = any(s["mode"] == mode and s["cpu_us"] is not None for s in result["samples"])
    return "cpu_us" if served and _is_busy(result) else "rate"


def _is_busy(result: dict[str, Any]) -> bool:
    return float(result["machine"]["load_before"]) > report.QUIET_LOAD


def title_of(mode: str, figure: str = "rate") -> str:
    """What a mode is called on a page: `echo-1KiB-64` says it to those who have read its code."""
    kind, _, count = mode.rpartition("-")
    if not count.isdigit():
        return TITLES.get(mode, mode)
    size = ""
    if kind.endswith(("B", "iB")):
        kind, _, size = kind.rpartition("-")
        size = f", {size.replace('KiB', ' KiB').replace('64B', '64 B')}"
    title = TITLES.get(kind, mode).format(size=size)
    before, colon, unit = title.partition(":")
    connections = "" if kind in ("tls-bulk", "tls-handshake") else f", {count} at a time"
    if figure == "cpu_us":
        return f"{before}{connections}: CPU µs, less is better"
    return f"{before}{connections}{colon}{unit}"


def draw(
    samples: Sequence[Sample],
    modes: Sequence[str],
    contenders: Sequence[str],
    title: str,
    path: str,
) -> None:
    """All of a run in one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = -(-len(modes) // COLUMNS)
    figure, axes = pyplot.subplots(
        rows, COLUMNS, figsize=(15, 1 + 2.1 * rows), squeeze=False, layout="constrained"
    )
    panels = list(axes.flat)
    for panel, mode in zip(panels, modes, strict=False):
        _panel(panel, samples, mode, contenders, f"{mode}, per second", LIGHT, 8)
    for panel in panels[len(modes) :]:
        panel.axis("off")
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def picture(result: dict[str, Any], modes: Sequence[str], scheme: Scheme, path: Path) -> None:
    """Some modes of a run below each other, narrow enough for a phone, and what they were measured on."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    matplotlib.rcParams["svg.hashsalt"] = path.stem  # the same data, the same bytes
    from matplotlib import pyplot

    samples = [Sample(**sample) for sample in result["samples"]]
    contenders = list(result["versions"])
    shown = {mode: [c for c in contenders if values(samples, mode, c, "rate")] for mode in modes}
    lines = list(caption(result, modes))
    bars = [max(len(shown[mode]), 1) for mode in modes]
    height = sum(0.19 * count + 0.42 for count in bars) + 0.175 * len(lines) + 0.1
    figure = pyplot.figure(figsize=(5.2, height))
    top = height
    for mode, count in zip(modes, bars, strict=True):
        top -= 0.34
        size = 0.19 * count
        place = (0.17, (top - size) / height, 0.81, size / height)
        drawn = figure_of(result, mode)
        title = title_of(mode, drawn)
        _panel(figure.add_axes(place), samples, mode, shown[mode], title, scheme, 8.5, drawn)
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
    about = {"Date": None, "Source": fingerprint(result)}  # by which a test knows an old picture
    figure.savefig(path, transparent=True, metadata=about)
    pyplot.close(figure)


def fingerprint(result: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def caption(result: dict[str, Any], modes: Sequence[str]) -> Iterator[str]:
    """When, where, and with what a run was made, and who is not in it."""
    yield from wrap(" ".join([_way(result), _place(result), *_gaps(result, modes)]), 90)


def _way(result: dict[str, Any]) -> str:
    rounds = f"{result['rounds']} rounds of {result['seconds']:g} s"
    better = "CPU time of the server: less is better. Else longer" if _is_busy(result) else "Longer"
    return (
        f"{better} is faster. Medians of {rounds}, interleaved; the thin line goes from the least to the "
        "most. The floor is C on bare epoll, with OpenSSL for TLS."
    )


def _place(result: dict[str, Any]) -> str:
    about = result["machine"]
    facts = [about["date"][:10], about["processor"], f"{about['cores']} cores", about["system"]]
    facts += [about["python"], *_versions(result), about.get("openssl", "")]
    load = about["load_before"]
    noise = (
        f" Other work was under way (load {load:.1f}): rates mean little."
        if _is_busy(result)
        else ""
    )
    return ", ".join(filter(None, facts)) + "." + noise


def _gaps(result: dict[str, Any], modes: Sequence[str]) -> Iterator[str]:
    """Those who broke in a mode, and those who were not there at all."""
    reasons: dict[str, str] = {}
    for sample in result["samples"]:
        if sample["mode"] in modes and sample["failure"]:
            reasons.setdefault(sample["contender"], sample["failure"].partition("\n")[0])
    for contender, reason in reasons.items():
        yield f"{contender} fails here: {reason}."
    if result["absent"]:
        yield f"Not there: {', '.join(result['absent'])}."


def _versions(result: dict[str, Any]) -> Iterator[str]:
    commit = result["machine"].get("commit")
    for name, version in result["versions"].items():
        if name == SUBJECT and commit:
            yield f"{name} {version} ({commit})"
        elif name not in ("asyncio", loops.FLOOR):
            yield f"{name} {version}"


def _panel(panel, samples, mode, contenders, title, scheme, size, figure="rate") -> None:  # type: ignore[no-untyped-def]
    found = {c: list(values(samples, mode, c, figure).values()) for c in contenders}
    shown = [c for c in contenders if found[c]]
    middle = [median(found[c]) for c in shown]
    spread = [
        [m - min(found[c]) for c, m in zip(shown, middle, strict=True)],
        [max(found[c]) - m for c, m in zip(shown, middle, strict=True)],
    ]
    special = {SUBJECT: scheme.subject, loops.FLOOR: scheme.floor}
    colours = [special.get(c, scheme.others) for c in shown]
    line = {"linewidth": 0.8, "ecolor": scheme.text}
    panel.barh(shown, middle, xerr=spread, color=colours, error_kw=line)
    for place, (contender, rate) in enumerate(zip(shown, middle, strict=True)):
        at = max(found[contender])
        digits = 0 if rate >= 100 else 1
        panel.text(at, place, f" {rate:,.{digits}f}", va="center", fontsize=size, color=scheme.text)
    panel.set_title(title, fontsize=size + 0.5, loc="left", color=scheme.text)
    panel.invert_yaxis()
    panel.set_xlim(0, 1.3 * max(max(found[c]) for c in shown) if shown else 1)
    panel.set_xticks([])
    panel.tick_params(axis="y", labelsize=size, length=0, labelcolor=scheme.text)
    panel.set_facecolor("none")
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    panel.spines["left"].set_color(scheme.faint)


def tables(result: dict[str, Any]) -> Iterator[str]:
    """The run in figures, as Markdown: the median of each mode and contender."""
    samples = [Sample(**sample) for sample in result["samples"]]
    contenders = list(result["versions"])
    yield f"| | {' | '.join(contenders)} |"
    yield "|---|" + "---:|" * len(contenders)
    for mode in dict.fromkeys(sample.mode for sample in samples):
        yield _row(title_of(mode), [_middle(samples, mode, c, "rate") for c in contenders], 0)
        cpu = [_middle(samples, mode, c, "cpu_us") for c in contenders]
        if any(cpu):
            yield _row("… CPU time of the server for each, µs", cpu, 2)
    for kind, weights in result.get("memory", {}).items():
        title = {"plain": "memory of an idle connection, bytes"}.get(
            kind, f"… over {kind.upper()}, bytes"
        )
        yield _row(title, [weights.get(c) for c in contenders], 0)
    yield ""
    yield f"{_place(result)} Medians of {result['rounds']} rounds of {result['seconds']:g} s, interleaved."


def _middle(samples: Sequence[Sample], mode: str, contender: str, figure: str) -> float | None:
    found = values(samples, mode, contender, figure)
    return median(found.values()) if found else None


def _row(title: str, figures: Sequence[float | None], digits: int) -> str:
    cells = ["" if figure is None else f"{figure:,.{digits}f}" for figure in figures]
    return f"| {title} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("result", type=Path, help="what run.py --json wrote")
    parser.add_argument("folder", type=Path, nargs="?", help="where the pictures go")
    parser.add_argument("--tables", action="store_true", help="print the figures, as Markdown")
    arguments = parser.parse_args()

    result = json.loads(arguments.result.read_text())
    if arguments.tables:
        print("\n".join(tables(result)))
    if not arguments.folder:
        return
    measured = {sample["mode"] for sample in result["samples"]}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, modes in PICTURES.items():
        present = [mode for mode in modes if mode in measured]
        for scheme, colours in SCHEMES.items():
            if present:
                picture(result, present, colours, arguments.folder / f"{name}-{scheme}.svg")


if __name__ == "__main__":
    main()
