"""MNIST in small: files of 12 + 4 images that `load_mnist` takes for the real ones, and a mirror that serves them badly."""

import gzip
import hashlib
import http.server
import socket
import struct
import threading
from pathlib import Path

import numpy as np

import lrtut.data
import lrtut.download

TRAIN, TEST, VAL = 12, 4, 2  # images


def make_tiny(root):
    """Write the files below `root`, in torchvision's layout; returns what `lrtut.download.FILES` says of them."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    files = {}
    for name in lrtut.download.FILES:
        n = TRAIN if name.startswith("train") else TEST
        if "images" in name:
            header = np.array([0x803, n, 28, 28], dtype=">i4").tobytes()
            body = np.repeat(np.arange(n, dtype=np.uint8) * 10, 784).tobytes()  # image i is all 10 i
        else:
            header = np.array([0x801, n], dtype=">i4").tobytes()
            body = (np.arange(n) % 10).astype(np.uint8).tobytes()
        (raw / name).write_bytes(header + body)
        files[name] = (len(header + body), hashlib.md5(header + body).hexdigest())
    return files


def pretend(files, replace=setattr):
    """Let `lrtut` take these files for MNIST's."""
    replace(lrtut.download, "FILES", files)
    replace(lrtut.data, "FILES", files)
    replace(lrtut.data, "_VALIDATION", {"MNIST": VAL, "digits": 250})


def use_mirror(resources, address, cache, replace=setattr):
    """Let torchvision download these resources from `address`, and `lrtut` fill `cache`."""
    import torchvision

    replace(torchvision.datasets.MNIST, "resources", resources)
    replace(torchvision.datasets.MNIST, "mirrors", [address])
    replace(lrtut.data.platformdirs, "user_cache_dir", lambda name: str(cache))


class Mirror:
    """A server on the loopback address: serves the tiny set well until `fault` says how badly.

    `fault` holds for the file `at`, the others are served well: what is to be feared is a cache filled in part.
    """

    FAULTS = ("404", "500", "page", "truncated", "checksum", "drops", "resets", "hangs")

    def __init__(self, tiny: Path, cache: Path):
        self.cache, self.fault, self.at = cache, None, "train-images-idx3-ubyte.gz"
        self.seen: list[str] = []  # names in requests
        self.asked: list[str] = []  # the same, for a file's bytes
        self.before_answer = lambda: None
        self.released = threading.Event()  # lets a hanging answer end
        self.packed = {
            f"{p.name}.gz": gzip.compress(p.read_bytes(), mtime=0) for p in (tiny / "MNIST" / "raw").iterdir()
        }
        # In torchvision's order.
        self.resources = [(f"{n}.gz", hashlib.md5(self.packed[f"{n}.gz"]).hexdigest()) for n in lrtut.download.FILES]
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
                mirror.seen.append(name)
                if self.headers.get("Method") != "HEAD":  # so torchvision asks first whether it is sent elsewhere
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
                    body = gzip.compress(gzip.decompress(body)[:-1] + b"x")
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
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
