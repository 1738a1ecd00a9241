"""The comparison, the list and the children: the judges must not err in our favour."""

import subprocess
import sys

import children
import pytest
import released
from children import Side
from compare import Entry, Outcome, counts, differences, judge, load_expected, satisfies
from uvicorn_suite import UVICORN
from uvloop_suite import UVLOOP

OK, FAIL, SKIP = Outcome("ok"), Outcome("fail", "AssertionError"), Outcome("skip")


@pytest.mark.parametrize("kind", ["fail", "error", "timeout", "crash", "skip"])
def test_whatever_is_not_ok_differs_from_ok(kind):
    assert differences({"m.C.t": OK}, {"m.C.t": Outcome(kind)}) == ["m.C.t"]


def test_a_test_that_disappears_differs():
    assert differences({"m.C.t": OK}, {}) == ["m.C.t"]


@pytest.mark.parametrize("stock", [FAIL, SKIP, Outcome("timeout")])
def test_a_failure_that_stock_does_not_pass_either_is_none(stock):
    assert differences({"m.C.t": stock}, {"m.C.t": FAIL}) == []


def test_a_crash_at_exit_differs_though_stock_has_no_such_test():
    assert differences({}, {"m.C.(exit)": Outcome("crash")}) == ["m.C.(exit)"]


def test_counts_take_every_way_to_fail_together():
    assert counts([OK, OK, FAIL, Outcome("crash"), Outcome("timeout"), SKIP]) == (2, 3, 1)


def test_a_listed_difference_is_known_and_an_unlisted_one_is_not():
    stock = {"m.C.a": OK, "m.C.b": OK}
    entry = Entry("m.*.a", "a reason")

    verdict = judge(stock, {"m.C.a": FAIL, "m.C.b": FAIL}, [entry])

    assert verdict.known == {"m.C.a": entry}
    assert verdict.unexpected == ["m.C.b"]
    assert not verdict.good


def test_a_listed_test_that_passes_makes_the_entry_stale_even_if_another_fails():
    stock = {"m.C.a": OK, "m.D.a": OK}

    verdict = judge(stock, {"m.C.a": FAIL, "m.D.a": OK}, [Entry("m.*.a", "a reason")])

    assert verdict.stale == ["m.D.a: listed (a reason), but it passes"]
    assert not verdict.good


def test_a_flaky_entry_may_pass():
    assert judge({"m.C.a": OK}, {"m.C.a": OK}, [Entry("m.C.a", "races", flaky=True)]).good


def test_an_entry_says_nothing_of_a_test_that_stock_skips_here():
    assert judge({"m.C.a": SKIP}, {"m.C.a": SKIP}, [Entry("m.C.a", "a reason")]).good


def test_an_entry_without_a_test_is_stale_in_a_complete_run_only():
    entry = Entry("m.C.gone", "a reason")

    assert judge({"m.C.a": OK}, {"m.C.a": OK}, [entry], complete=False).good
    assert judge({"m.C.a": OK}, {"m.C.a": OK}, [entry]).stale == ["m.C.gone: there is no such test"]


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ("", True),
        ("3.12", True),
        ("3.1", False),
        (">=3.12", True),
        (">3.12", False),
        ("<3.13, !=3.12.0", True),
        ("<=3.11", False),
        (">=3.12,<3.12.1", False),
    ],
)
def test_a_version_condition_looks_at_as_many_numbers_as_it_names(condition, met):
    assert satisfies((3, 12, 1), condition) is met


def test_a_condition_that_is_none_is_refused():
    with pytest.raises(ValueError, match="not a version condition"):
        satisfies((3, 12, 1), "3.12+")


def write(tmp_path, line):
    path = tmp_path / "expected.toml"
    path.write_text(f"cpython = [\n  {{ {line} }},\n]\n")
    return path


def test_the_list_gives_the_entries_of_one_suite_and_version(tmp_path):
    path = write(tmp_path, 'test = "m.C.a", python = "<3.13", touches = "_ready", why = "counts"')

    assert load_expected("cpython", (3, 12, 1), path) == [
        Entry("m.C.a", "counts", python="<3.13", touches="_ready")
    ]
    assert load_expected("cpython", (3, 13, 0), path) == []
    assert load_expected("uvicorn", (3, 12, 1), path) == []


@pytest.mark.parametrize(
    "line",
    ['test = "m.C.a"', 'test = "m.C.a", why = " "', 'test = "m.C.a", why = "x", because = "y"'],
)
def test_a_line_without_a_reason_or_with_an_unknown_word_is_refused(tmp_path, line):
    with pytest.raises(ValueError, match=r"m\.C\.a"):
        load_expected("cpython", (3, 12, 1), write(tmp_path, line))


@pytest.mark.parametrize("suite", ["cpython", "uvicorn", "uvloop"])
def test_the_list_in_the_repository_can_be_read(suite):
    load_expected(suite, (3, 13, 0))


def test_tests_of_a_release_are_found_again_by_module_class_and_name(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").touch()

    assert released.node_id(tmp_path, "tests.test_a::test_b[x]") == "tests/test_a.py::test_b[x]"
    assert released.node_id(tmp_path, "tests.test_a.C::test_b") == "tests/test_a.py::C::test_b"


@pytest.mark.parametrize("project", [UVICORN, UVLOOP], ids=lambda project: project.name)
def test_the_pages_name_the_release_whose_tests_are_run(project):
    assert project.pin.replace("==", " ") in (released.HERE / "README.md").read_text()


WAYS = """
import asyncio, selectors, sys, unittest, other
from asyncio import base_events, unix_events

async def running(): return asyncio.get_running_loop()

class Case(unittest.IsolatedAsyncioTestCase):
    async def test(self): Case.loop = await running()

Case("test").debug()
loops = [
    Case.loop,
    asyncio.run(running()),
    asyncio.Runner().get_loop(),
    asyncio.new_event_loop(),
    asyncio.SelectorEventLoop(selectors.SelectSelector()),
    asyncio.BaseEventLoop(),
    base_events.BaseEventLoop(),
    unix_events.SelectorEventLoop(),
    unix_events._UnixSelectorEventLoop(),
]
if sys.version_info >= (3, 13):
    loops += [asyncio.EventLoop()]
if sys.version_info < (3, 14):
    loops += [asyncio.DefaultEventLoopPolicy().new_event_loop()]
for loop in loops:
    assert type(loop) is other.Loop, loop
    assert isinstance(loop, asyncio.SelectorEventLoop)
    loop.close()

class Derived(asyncio.SelectorEventLoop): pass
assert issubclass(Derived, other.Loop) and type(Derived()) is Derived
assert not isinstance(asyncio.new_event_loop(), Derived)
try:
    import uvloop
except ImportError:
    print("all")
"""


def test_every_way_to_make_a_loop_is_replaced_and_uvloop_cannot_slip_in(tmp_path, monkeypatch):
    (tmp_path / "other.py").write_text(
        "import asyncio\nclass Loop(asyncio.SelectorEventLoop): pass\ndef make(): return Loop()\n"
    )
    (tmp_path / "uvloop.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    environment = released.surroundings("other:make")

    command = [sys.executable, "-W", "ignore", "-c", WAYS]
    said = subprocess.check_output(command, env=environment, text=True)

    assert said == "all\n"


IN_UVLOOPS_NAME = """
import asyncio, other, uvloop
from uvloop import _testbase

async def running(): return asyncio.get_running_loop()

class Derived(uvloop.Loop): pass
loops = [uvloop.new_event_loop(), uvloop.EventLoopPolicy().new_event_loop(), Derived()]
for loop in [*loops, uvloop.run(running())]:
    assert isinstance(loop, other.Loop) and isinstance(loop, uvloop.Loop), loop
    loop.close()
print(_testbase.real)
"""


def test_in_uvloops_own_tests_its_name_stands_for_the_loop_in_question(tmp_path, monkeypatch):
    (tmp_path / "other.py").write_text(
        "import asyncio\nclass Loop(asyncio.SelectorEventLoop): pass\ndef make(): return Loop()\n"
    )
    (tmp_path / "_testbase.py").write_text("real = 'real'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    environment = released.surroundings("other:make") | {"CONFORMANCE_UVLOOP": str(tmp_path)}

    command = [sys.executable, "-W", "ignore", "-c", IN_UVLOOPS_NAME]
    said = subprocess.check_output(command, env=environment, text=True)

    assert said == "real\n"


# A stand-in for CPython's package: a class that passes, fails, hangs, dies and skips, in turn.
SUITE = """
import os, signal, time, unittest

class Mixed(unittest.TestCase):
    def test_1_passes(self): pass
    def test_2_fails(self): self.assertEqual(1, 2)
    def test_3_hangs(self): time.sleep(60)
    def test_4_dies(self): os.kill(os.getpid(), signal.SIGSEGV)
    def test_5_skips(self): self.skipTest("why not")
    def test_6_subtests(self):
        for n in range(3):
            with self.subTest(n=n): self.assertNotEqual(n, 1)
    def test_7_passes(self): pass

class Refuses(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise OSError("no")
    def test_1(self): pass

class DiesAtExit(unittest.TestCase):
    def test_1(self):
        import atexit
        atexit.register(os._exit, 3)
"""


@pytest.fixture
def side(tmp_path, monkeypatch):
    package = tmp_path / "test" / "test_asyncio"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "test_it.py").write_text(SUITE)
    (package / "test_not.py").write_text("import unittest\nraise unittest.SkipTest('not here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Side("stock", sys.executable, tmp_path / "logs", timeout=1)


def test_a_child_lists_the_tests_of_each_module(side):
    listed = children.list_tests(side, ["test_*"])

    assert listed["test_it"][0] == "test_it.DiesAtExit.test_1"
    assert listed["test_not"] == Outcome("skip", "not here")


def test_a_class_is_finished_though_its_tests_hang_and_kill_the_process(side):
    names = ["1_passes", "2_fails", "3_hangs", "4_dies", "5_skips", "6_subtests", "7_passes"]

    outcomes = children.run(side, [f"test_it.Mixed.test_{name}" for name in names])

    kinds = [outcome.kind for _, outcome in sorted(outcomes.items())]
    assert kinds == ["ok", "fail", "timeout", "crash", "skip", "fail", "ok"]
    assert "1 != 2" in outcomes["test_it.Mixed.test_2_fails"].detail
    assert "test_3_hangs" in outcomes["test_it.Mixed.test_3_hangs"].detail
    assert "SIGSEGV" in outcomes["test_it.Mixed.test_4_dies"].detail


def test_a_class_that_refuses_to_start_fails_in_each_of_its_tests(side):
    outcomes = children.run(side, ["test_it.Refuses.test_1"])

    assert outcomes["test_it.Refuses.test_1"].kind == "error"
    assert "OSError: no" in outcomes["test_it.Refuses.test_1"].detail


def test_a_process_that_dies_after_its_tests_is_told(side):
    outcomes = children.run(side, ["test_it.DiesAtExit.test_1"])

    assert outcomes["test_it.DiesAtExit.test_1"].kind == "ok"
    assert outcomes["test_it.DiesAtExit.(exit)"] == Outcome("crash", "exit status 3")
