"""The benchmark: that every row runs, that a run's file is whole, and how two files compare.

How fast anything is, no test can say: others are at work on its machine.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"

sys.path.insert(0, str(BENCH))
try:
    import compare_runs
    import rows
    import samples
    import serve
    import work
finally:
    sys.path.remove(str(BENCH))

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
BOTH = ["asyncio", "zloop"]
NOT_HERE = re.compile(r"is not installed|No module named|no user")  # why a row may be skipped


def run(*arguments: object) -> str:
    command = [sys.executable, BENCH / "run.py", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Files.


def kept(path: Path, zloop: list[float], uvloop: list[float], row: str = "echo-1KiB-64") -> Path:
    """A run of one row, whose rates are given round by round."""
    made = samples.Run(
        machine={"date": "2026-12-01", "load_before": 0.1},
        versions={"uvloop": "1", "zloop": "2"},
        absent={},
        rounds=len(zloop),
        seconds=0.5,
        rows={row: {"title": "an echo", "unit": "messages", "main": "rate"}},
    )
    for contender, rates in (("zloop", zloop), ("uvloop", uvloop)):
        for i, rate in enumerate(rates):
            cpu_us = 1e6 / rate
            made.samples.append(samples.Sample(row, i + 1, contender, rate=rate, cpu_us=cpu_us))
    made.write(path)
    return path


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = kept(tmp_path / "run.json", [100.0, 120.0, 110.0], [50.0, 60.0, 55.0])

    run = samples.read(path)
    run.write(tmp_path / "again.json")

    assert samples.values(run.samples, "echo-1KiB-64", "zloop", "rate") == {1: 100, 2: 120, 3: 110}
    assert json.loads(path.read_text()) == json.loads((tmp_path / "again.json").read_text())


def test_a_file_has_median_and_quartiles_of_each_figure(tmp_path: Path) -> None:
    path = kept(tmp_path / "run.json", [100.0, 120.0, 110.0, 130.0, 140.0], [50.0])

    medians = json.loads(path.read_text())["medians"]

    assert medians["echo-1KiB-64"]["zloop"]["rate"] == [110, 120, 130]


def test_ratios_are_those_of_a_round(tmp_path: Path) -> None:
    # The machine is twice as fast in the second round: for both.
    run = samples.read(kept(tmp_path / "run.json", [100.0, 200.0], [50.0, 100.0]))

    assert samples.ratios(run.samples, "echo-1KiB-64", "zloop", "uvloop", "rate") == (2, 2, 2)


def test_what_got_worse_stands_first(tmp_path: Path) -> None:
    old = kept(tmp_path / "old.json", [100.0, 101.0, 102.0], [50.0, 50.0, 50.0])
    new = kept(tmp_path / "new.json", [80.0, 81.0, 82.0], [60.0, 60.0, 60.0])

    command = [sys.executable, BENCH / "compare_runs.py", old, new, "--contenders", "zloop,uvloop"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    table = [line.split() for line in said.splitlines() if "echo-1KiB-64" in line]
    assert [line[0] for line in table] == ["worse", "worse", "better", "better"]
    assert [line[2] for line in table] == ["zloop", "zloop", "uvloop", "uvloop"]
    assert "2 worse, 2 better, of 4" in said


def test_a_change_within_the_quartiles_is_none(tmp_path: Path) -> None:
    old = samples.read(kept(tmp_path / "old.json", [90.0, 100.0, 110.0], [50.0]))
    new = samples.read(kept(tmp_path / "new.json", [85.0, 95.0, 105.0], [50.0]))

    (change,) = compare_runs.changes(old, new, ["zloop"], ["rate"], None)

    assert change.verdict == ""
    assert change.gain.middle == pytest.approx(0.95)


def test_of_one_round_nothing_is_said(tmp_path: Path) -> None:
    old = samples.read(kept(tmp_path / "old.json", [100.0], [50.0]))
    new = samples.read(kept(tmp_path / "new.json", [50.0], [50.0]))

    (change,) = compare_runs.changes(old, new, ["zloop"], ["rate"], None)

    assert change.gain.middle == 0.5
    assert change.verdict == ""


def test_against_another_what_both_machines_share_falls_out(tmp_path: Path) -> None:
    old = samples.read(kept(tmp_path / "old.json", [100.0, 100.0], [50.0, 50.0]))
    new = samples.read(kept(tmp_path / "new.json", [200.0, 200.0], [100.0, 100.0]))

    (change,) = compare_runs.changes(old, new, ["zloop"], ["rate"], "uvloop")

    assert change.gain == (1, 1, 1)


# Rows.


def test_rows_have_names_of_their_own_and_programs_that_there_are() -> None:
    names = [row.name for row in rows.ROWS]
    assert len(set(names)) == len(names)
    for row in rows.ROWS:
        assert bool(row.server) != bool(row.worker), row.name
        if row.server:
            assert row.server.split()[0] in serve.SERVERS, row.name
            assert row.load.split()[0] in ("load", "tls_load", "wrk"), row.name
        else:
            assert row.worker.split()[0] in work.ROWS, row.name


@needs_compiler
@pytest.mark.slow
def test_a_run_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    some = ["--contenders", "zloop", "--rounds", 2, "--seconds", 0.02, "--json", path]
    run(*some, "--rows", "call_soon")
    first = samples.read(path).of("call_soon")

    run(*some, "--rows", "call_soon,sleep0", "--resume")

    went_on = samples.read(path)
    assert list(went_on.rows) == ["call_soon", "sleep0"]
    assert went_on.of("call_soon") == first
    assert [sample.round for sample in went_on.of("sleep0")] == [1, 2]


@needs_compiler
@pytest.mark.slow
def test_who_is_absent_or_cannot_do_a_row_is_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    nowhere = tmp_path / "python"
    nowhere.write_text("#!/bin/sh\necho 'no such loop' >&2; exit 1\n")
    nowhere.chmod(0o755)

    said = run(
        *("--rows", "parts2-1KiB-64", "--contenders", "uvloop,zloop,floor"),
        *("--python", f"uvloop={nowhere}", "--rounds", 1, "--seconds", 0.05, "--json", path),
    )

    kept = samples.read(path)
    assert kept.absent == {"uvloop": "no such loop"}
    assert kept.skipped["parts2-1KiB-64"] == {"floor": "there is no such C program"}
    assert "uvloop is absent: no such loop" in said
    assert "floor: there is no such C program" in said


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> samples.Run:
    """Every row, for a moment; those that a busy machine has left without a message, once more."""
    path = tmp_path_factory.mktemp("bench") / "run.json"
    some = ["--contenders", ",".join(BOTH), "--rounds", 1, "--json", path]
    run(*some, "--seconds", 0.1)
    first = samples.read(path)
    again = [row for row in first.rows if any(sample.failure for sample in first.of(row))]
    if again:
        for row in again:
            first.forget(row)
        first.write(path)
        run(*some, "--seconds", 0.5, "--resume", "--rows", ",".join(again))
    return samples.read(path)


@needs_compiler
@pytest.mark.bench
@pytest.mark.slow(hours=1)
def test_a_run_says_where_and_with_what_it_was_made(everything: samples.Run) -> None:
    about: dict[str, Any] = everything.machine
    for fact in ("date", "python", "system", "processor", "cores", "compiler", "load_before"):
        assert about[fact] or about[fact] == 0, fact
    assert list(everything.versions) == BOTH
    assert everything.rows.keys() == {row.name for row in rows.ROWS}
    assert everything.bars


@needs_compiler
@pytest.mark.bench
@pytest.mark.parametrize("contender", BOTH)
@pytest.mark.parametrize("row", rows.ROWS, ids=lambda row: row.name)
def test_a_row_measures(everything: samples.Run, row: rows.Row, contender: str) -> None:
    reason = everything.skipped.get(row.name, {}).get(contender)
    if reason and NOT_HERE.search(reason):
        pytest.skip(reason)

    assert reason is None
    (sample,) = [s for s in everything.of(row.name) if s.contender == contender]
    assert not sample.failure
    assert sample.rate and sample.rate > 0
    assert sample.cpu_us is not None
    assert getattr(sample, row.main) is not None
    if row.server and row.unit in ("messages", "connections"):
        assert 0 < sample.p50_us <= sample.p99_us <= sample.p999_us
    if row.crowd:
        assert sample.connection_bytes and sample.connection_bytes > 0
