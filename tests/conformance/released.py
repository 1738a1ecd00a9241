"""Run the tests of a released project on stock asyncio and on zloop, and compare test by test.

The tests come from the project's source distribution, pinned by hash in NAME-source.txt. They run in
a virtual environment of their own under build/, made once for each Python and brought up to date
when a requirement, of NAME-tests.txt, or zloop has changed. Both runs are the same but for
CONFORMANCE_LOOP; see everywhere/sitecustomize.py. A run on stock in which nothing failed is kept.
"""

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compare import Outcome, counts, differences, judge, load_expected
from kept import Kept
from slowest import print_slowest

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
BUILD = CHECKOUT / "build" / "conformance"

# What zloop is built from: when none of it has changed, it need not be built again.
SOURCES = ["include", "module", "zloop", "subprojects", "meson.build", "pyproject.toml"]

SUITE_TIMEOUT = 3600  # on a busy machine; alone, the longest takes six minutes
PIP = ["-m", "pip", "--disable-pip-version-check", "--quiet"]


@dataclass(frozen=True)
class Project:
    """Whose tests are run."""

    name: str  # of the distribution, and of its files here and in the list of differences
    timeout: int  # seconds for one test
    installed: bool = True  # into the environment, from its source
    editable: bool = False  # and used where it is unpacked: its tests find its compiled parts there
    options: tuple[str, ...] = ()  # of pytest, that its tests rely on
    variables: Mapping[str, str] = field(default_factory=dict)  # a path is inside of the source

    @property
    def pin(self) -> str:
        """name==version"""
        lines = (HERE / f"{self.name}-source.txt").read_text().splitlines()
        return next(line for line in lines if line.startswith(f"{self.name}==")).split()[0]

    @property
    def requirements(self) -> str:
        return (HERE / f"{self.name}-tests.txt").read_text()

    @property
    def source(self) -> Path:
        """Where the source distribution is unpacked."""
        return BUILD / self.pin.replace("==", "-")


def judge_by(project: Project, description: str) -> int:
    """The command: an exit status."""
    # A background job of a shell ignores Ctrl-C, and so would the tests that send themselves one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = arguments(description)
    unpack(project)
    python = Path(options.python) if options.no_venv else environment(project, options)
    version = tuple(map(int, ask(python, "import sys; print(*sys.version_info[:3])").split()))
    where = BUILD / f"{project.name}-{'.'.join(map(str, version))}"
    where.mkdir(parents=True, exist_ok=True)

    judged = options.loop.partition(":")[0]

    def outcomes_on(name: str, loop: str) -> dict[str, Outcome]:
        made = "import asyncio; print(type(asyncio.new_event_loop()))"
        print(f"{name}: {ask(python, made, loop)}", flush=True)
        began = time.monotonic()
        outcomes = run(project, python, loop, where / f"{name}.xml", ["-n", str(options.n)])
        ok, fail, skip = counts(outcomes.values())
        seconds = time.monotonic() - began
        print(f"  {ok} passed, {fail} failed, {skip} skipped; {seconds:.0f} s", flush=True)
        return outcomes

    suite = ask(python, "import sys; print(sys.version)") + project.pin + project.requirements
    kept = Kept(where / "kept.json", suite, options.fresh)
    stock = kept.outcomes
    if not stock:
        stock = outcomes_on("stock", "")
        if not counts(stock.values())[1]:
            kept.add(stock)
    ours = outcomes_on(judged, options.loop)

    expected = load_expected(project.name, version) if judged == "zloop" else []
    for test in differences(stock, ours):
        if test in ours and not any(entry.covers(test) for entry in expected):
            retry(project, python, options.loop, where / "again.xml", test, ours)
    verdict = judge(stock, ours, expected)
    title = f"{project.name}'s tests"
    print(f"\n{title}{'passed':>12}{'failed':>9}{'skipped':>9}")
    for name, outcomes in ("stock", stock), (judged, ours):
        print(f"{name:{len(title)}}" + "{:12}{:9}{:9}".format(*counts(outcomes.values())))
    for test, entry in verdict.known.items():
        print(f"known      {test}: {entry.why}")
    for test in verdict.unexpected:
        print(f"different  {test}\n           stock {stock.get(test, 'has no such test')}")
        print(f"           {judged} {ours.get(test, 'has no such test')}")
    for line in verdict.stale:
        print(f"stale      {line}")
    print_slowest(
        (f"{project.name}'s {test.partition('::')[0]}", outcome.seconds)
        for test, outcome in ours.items()
    )
    return 0 if verdict.good and counts(stock.values())[0] else 1


def arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    add = parser.add_argument
    add("--python", default=sys.executable, help="the Python to run with (this one)")
    add("--loop", default="zloop:new_event_loop", help="module:factory (%(default)s)")
    add("--zloop-wheel", type=Path, metavar="WHEEL", help="install this, build nothing")
    add("--fresh", action="store_true", help="forget what stock did before")
    add("--no-venv", action="store_true", help="all that is needed is installed with --python")
    add("-n", type=int, default=2, metavar="N", help="processes that run tests (%(default)s)")
    options = parser.parse_args()
    options.python = shutil.which(options.python) or options.python
    return options


def unpack(project: Project) -> None:
    """Download and unpack the source distribution, once."""
    if project.source.exists():
        return
    pin = HERE / f"{project.name}-source.txt"
    command = [sys.executable, *PIP, "download", "--no-deps", "--no-binary", project.name]
    command += ["--require-hashes", "-r", str(pin), "-d", str(BUILD)]
    subprocess.run(command, check=True)
    with tarfile.open(f"{project.source}.tar.gz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # not in 3.11.2
        archive.extractall(BUILD)


def environment(project: Project, options: argparse.Namespace) -> Path:
    """The Python of a virtual environment with the project, what its tests need, and the loop."""
    version = ask(Path(options.python), "import platform; print(platform.python_version())")
    venv = BUILD / f"{project.name}-venv-{version}"
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([options.python, "-m", "venv", str(venv)], check=True)

    requirements = HERE / f"{project.name}-tests.txt"
    install = [[python, *PIP, "install", "-r", requirements]]
    if project.installed:
        where = ["--editable", project.source] if project.editable else [project.source]
        install.append([python, *PIP, "install", "--no-deps", *where])
    once(venv / "tests.stamp", project.requirements + str(project.source), *install)
    loop = options.loop.partition(":")[0].partition(".")[0]
    if loop == "zloop":
        # pip builds in isolation: the build's requirements are zloop's business, not the project's.
        what = options.zloop_wheel or CHECKOUT
        install = [python, *PIP, "install", "--no-deps", "--force-reinstall", what]
        once(venv / "zloop.stamp", fingerprint(what), install)
    elif loop != "asyncio":
        once(venv / f"{loop}.stamp", loop, [python, *PIP, "install", loop])
    return python


def once(stamp: Path, state: str, *commands: list[str | Path]) -> None:
    """Run the commands unless they were run for the same `state` before."""
    if stamp.exists() and stamp.read_text() == state:
        return
    for command in commands:
        subprocess.run(command, check=True)
    stamp.write_text(state)


def fingerprint(what: Path) -> str:
    """Changes when the wheel, or a source file of the checkout, does."""
    digest = hashlib.sha256()
    roots = [what] if what.is_file() else [what / name for name in SOURCES]
    for path in sorted(file for root in roots for file in [root, *root.rglob("*")]):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path} {path.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()


def surroundings(loop: str, project: Project | None = None) -> dict[str, str]:
    """The environment of a run: what puts the loop in place, in every process."""
    path = os.pathsep.join(filter(None, [str(HERE / "everywhere"), os.environ.get("PYTHONPATH")]))
    variables = {"PYTHONPATH": path, "CONFORMANCE_LOOP": loop}
    if project is not None:
        variables |= {name: str(project.source / path) for name, path in project.variables.items()}
    return os.environ | variables


def ask(python: Path, code: str, loop: str = "") -> str:
    """What `code` prints."""
    command = [str(python), "-W", "ignore", "-c", code]
    return subprocess.check_output(command, env=surroundings(loop), text=True).strip()


def run(
    project: Project, python: Path, loop: str, report: Path, arguments: list[str]
) -> dict[str, Outcome]:
    """Run the project's tests; what pytest prints goes into a log beside the report."""
    report.unlink(missing_ok=True)
    command = [str(python), "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-q"]
    # A test that hangs ends its process, and xdist starts another: no loop is trusted to wake up.
    command += ["--timeout", str(project.timeout), "--timeout-method", "thread"]
    command += [f"--junitxml={report}", *project.options, *arguments]
    with open(report.with_suffix(".log"), "wb") as log:
        pytest = subprocess.Popen(
            command,
            cwd=project.source,
            env=surroundings(loop, project),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            pytest.wait(SUITE_TIMEOUT)
        finally:
            if pytest.poll() is None:
                os.killpg(pytest.pid, signal.SIGKILL)
                pytest.wait()
    if not report.exists():
        raise SystemExit(f"pytest left no report: see {report.with_suffix('.log')}")
    return read(report)


def read(report: Path) -> dict[str, Outcome]:
    """The outcomes in a JUnit report, as "tests.test_main::test_run[h11]"."""
    outcomes: dict[str, Outcome] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kind, detail = "ok", ""
        for tag, name in ("skipped", "skip"), ("error", "error"), ("failure", "fail"):
            for child in case.findall(tag):
                kind, detail = name, child.get("message", "").partition("\n")[0][:200]
        test = f"{case.get('classname')}::{case.get('name')}"
        outcomes[test] = Outcome(kind, detail, float(case.get("time", 0)))
    return outcomes


def retry(
    project: Project,
    python: Path,
    loop: str,
    report: Path,
    test: str,
    outcomes: dict[str, Outcome],
) -> None:
    """Give a failing test two more chances, alone on the machine."""
    for _ in range(2):
        again = run(project, python, loop, report, ["-n", "1", node_id(project.source, test)])
        if again.get(test, outcomes[test]).kind == "ok":
            print(f"flaky      {test}: passed when it was run again, alone")
            outcomes[test] = again[test]
            return


def node_id(source: Path, test: str) -> str:
    """pytest's name for a test of the report: the module is the part that is a file."""
    classname, _, name = test.partition("::")
    parts = classname.split(".")
    files = (
        n for n in range(len(parts), 0, -1) if Path(source, *parts[:n]).with_suffix(".py").exists()
    )
    length = next(files, len(parts))
    return "::".join(["/".join(parts[:length]) + ".py", *parts[length:], name])
