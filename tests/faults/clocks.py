"""Workers whose clock is hours off, by libfaketime: only the time of day is shifted, durations stay true.

The library is in the `dev` extra as a wheel for Linux on x86-64; elsewhere `is_available` says no.
"""

import importlib.util
import platform
import sys
from datetime import timedelta
from pathlib import Path


def is_available() -> bool:
    """Whether libfaketime is installed for this platform."""
    return _library() is not None


def shifted(by: timedelta) -> dict[str, str]:
    """Variables for a process, and all that it starts, whose clock is so far ahead (or behind, where negative)."""
    return {
        "LD_PRELOAD": str(_library()),
        "FAKETIME": f"{by.total_seconds():+.0f}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",  # what older releases call it
        "FAKETIME_NO_CACHE": "1",
    }


def _library() -> Path | None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    spec = importlib.util.find_spec("libfaketime")  # found, not imported
    if spec is None or spec.origin is None:
        return None
    library = Path(spec.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
    return library if library.exists() else None
