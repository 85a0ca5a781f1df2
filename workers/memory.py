"""Memory: what a large message took goes back to the system when it is freed."""

import ctypes

LARGE_BYTES = 1_000_000
KEPT_BYTES = 16_000_000  # free memory below this stays for what comes next
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names and numbers


def return_large_buffers() -> None:
    """Have glibc map each large buffer by itself, in this process and those that it forks; elsewhere it does nothing.

    Left to itself, glibc takes the first large buffer that is freed as a reason to keep room for more of its size, up
    to 64 MB in each process, which a few messages of 10 MB were enough for.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
