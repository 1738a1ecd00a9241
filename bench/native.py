"""Compiles the C and C++ programs of this folder when they are needed.

They measure every event loop, zloop or not, so they need nothing but a compiler: no build of zloop,
no meson. The results lie in `build/bench` beside this folder.
"""

import os
import shlex
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "bench"
FLAGS = ["-std=c17", "-O2", "-Wall", "-Wextra", "-D_GNU_SOURCE"]
OPENSSL = ["-lssl", "-lcrypto"]
LIBRARIES = {"tls_floor": OPENSSL, "tls_load": OPENSSL, "tls_crowd": OPENSSL}


def program(name: str) -> str:
    """Return the path of the program made from `name`.c, newer than every source."""
    target = BUILD / name
    sources = [HERE / f"{name}.c", *HERE.glob("*.h")]
    if target.exists() and target.stat().st_mtime > max(s.stat().st_mtime for s in sources):
        return str(target)
    BUILD.mkdir(parents=True, exist_ok=True)
    fresh = BUILD / f"{name}.{os.getpid()}"  # another run may be executing the old one
    compiler = shlex.split(os.environ.get("CC", "cc"))
    libraries = LIBRARIES.get(name, [])
    command = [*compiler, *FLAGS, str(sources[0]), *libraries, "-o", str(fresh)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        raise OSError(f"{name}.c does not compile: {(errors or [done.stderr.strip()])[0]}")
    fresh.replace(target)
    return str(target)


def certificate() -> str:
    """Return the path of a PEM file with a key and a certificate for localhost that nobody signed."""
    target = BUILD / "localhost.pem"
    if not target.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ]
        command += ["-days", "3650", "-subj", "/CN=localhost", "-keyout", "-", "-out", "-"]
        made = subprocess.run(command, check=True, capture_output=True)
        fresh = BUILD / f"localhost.pem.{os.getpid()}"
        fresh.write_bytes(made.stdout)
        fresh.replace(target)
    return str(target)


INCLUDE = HERE.parent / "include"
CXX_FLAGS = ["-std=c++20", "-O2", "-DNDEBUG", "-DASIO_STANDALONE", "-pthread", f"-I{INCLUDE}"]


def cxx() -> list[str]:
    return shlex.split(os.environ.get("CXX", "c++"))


def cxx_program(name: str, *parts: str) -> str:
    """Return the path of the program made from cpp/`name`.cpp and its other `parts`."""
    target = BUILD / name
    sources = [HERE / "cpp" / f"{part}.cpp" for part in (name, *parts)]
    used = [*sources, *(HERE / "cpp").glob("*.hpp"), *INCLUDE.glob("zloop/*.hpp")]
    if target.exists() and target.stat().st_mtime > max(s.stat().st_mtime for s in used):
        return str(target)
    BUILD.mkdir(parents=True, exist_ok=True)
    fresh = BUILD / f"{name}.{os.getpid()}"
    subprocess.run([*cxx(), *CXX_FLAGS, *map(str, sources), "-o", str(fresh)], check=True)
    fresh.replace(target)
    return str(target)


def has_asio() -> bool:
    """Whether asio without Boost is installed (Debian: libasio-dev)."""
    return (
        subprocess.run(
            [*cxx(), "-E", "-x", "c++", "-std=c++20", "-DASIO_STANDALONE", "-"],
            input="#include <asio/version.hpp>",
            text=True,
            capture_output=True,
        ).returncode
        == 0
    )
