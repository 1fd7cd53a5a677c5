"""The kernel command: ask the warm server for a kernel and stand for it until it ends.

Jupyter starts, interrupts and kills this small process as it would the kernel itself. When it goes, its connection
closes, and the server's guard kills everything that the kernel has started.

    python -I -S attach.py SERVER_SOCKET REQUEST_JSON CONNECTION_FILE
"""

import contextlib
import json
import os
import signal
import socket
import sys


def main(address: str, request: str, connection_file: str) -> int:
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        server.sendall(json.dumps(json.loads(request) | {"connection_file": connection_file}).encode() + b"\n")
        signal.signal(signal.SIGINT, lambda *_: server.sendall(b"interrupt\n"))
        server.settimeout(0.5)
        while os.getppid() == int(os.environ["JPY_PARENT_PID"]):  # a grader that was killed takes its kernels along
            with contextlib.suppress(TimeoutError):
                with contextlib.suppress(ConnectionResetError):  # the guard had left an interrupt unread
                    server.recv(1)  # returns when the guard has closed its end
                return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
