"""Free TCP ports of this machine."""

import socket

LOOPBACK = "127.0.0.1"
PORTS_TO_TRY = 100


def next_free(preferred: int) -> int:
    """The first free port from `preferred` on; any free port when the next hundred are taken."""
    for port in range(preferred, min(preferred + PORTS_TO_TRY, 65536)):
        if is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback interface now."""
    with socket.socket() as probe:
        # As servers do, so that connections of a server that just stopped do not make its port look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True
