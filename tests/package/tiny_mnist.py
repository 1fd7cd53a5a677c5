"""MNIST in small: files of 12 + 4 images, and a mirror that serves them badly."""

import gzip
import hashlib
import http.server
import socket
import struct
import threading

import numpy as np

import lrtut.data

TRAIN, TEST, VAL = 12, 4, 2  # images


def make_tiny(root):
    """Write the files below `root`, as MNIST's are laid out; returns what `lrtut.data.FILES` says of them."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    files = {}
    for name in lrtut.data.FILES:
        n = TRAIN if name.startswith("train") else TEST
        if "images" in name:
            header = np.array([0x803, n, 28, 28], dtype=">i4").tobytes()
            body = np.repeat(np.arange(n, dtype=np.uint8) * 10, 784).tobytes()  # image i is all 10 i
        else:
            header = np.array([0x801, n], dtype=">i4").tobytes()
            body = (np.arange(n) % 10).astype(np.uint8).tobytes()
        (raw / name).write_bytes(header + body)
        files[name] = (len(header + body), md5(header + body), md5(pack(header + body)))
    return files


def md5(data):
    return hashlib.md5(data).hexdigest()


def pack(data):
    return gzip.compress(data, mtime=0)


class Mirror:
    """A server on the loopback address: serves the tiny set well until `fault` says how badly.

    `fault` holds for the file `at`; the others are served well, so that a cache filled in part would be noticed.
    """

    FAULTS = ("404", "500", "page", "truncated", "checksum", "drops", "resets", "hangs", "drips")

    def __init__(self, tiny):
        self.fault, self.at = None, "train-images-idx3-ubyte.gz"
        self.asked = []  # names of files
        self.before_answer = lambda: None
        self.released = threading.Event()  # ends answers that hang or drip
        self.packed = {f"{p.name}.gz": pack(p.read_bytes()) for p in (tiny / "MNIST" / "raw").iterdir()}
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def _handler(mirror):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.strip("/")
                mirror.asked.append(name)
                mirror.before_answer()
                body, fault = mirror.packed[name], mirror.fault if name == mirror.at else None
                if fault in ("404", "500"):
                    return self.send_error(int(fault))
                if fault == "hangs":
                    return mirror.released.wait(30)
                if fault == "page":
                    body = b"<!DOCTYPE html><html><title>Log in</title></html>"
                elif fault == "truncated":
                    body = body[:-5]
                elif fault == "checksum":
                    body = pack(gzip.decompress(body)[:-1] + b"x")
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                while fault == "drips" and not mirror.released.wait(0.05):
                    self.wfile.write(b"x")  # no single wait is long
                if fault in ("drops", "resets"):
                    body = body[: len(body) // 2]
                self.wfile.write(body)
                if fault == "resets":  # closed with a linger of 0 s, a connection is reset
                    self.wfile.flush()
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()

            def log_message(self, *_):
                pass

        return Handler
