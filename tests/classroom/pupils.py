"""What students hand in, good, bad and hostile: for each the files, and what must become of it."""

import json
import os
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from sample import NAME, STEP_DECAY, answer


@dataclass
class Pupil:
    """`contents` as `sample.hand_in` takes them; then the verdict, the points of the two tests, a part of a remark."""

    contents: object
    verdict: str = "graded"
    points: tuple[float, float] = (2, 3)
    remark: str = ""
    file: str = f"{NAME}.ipynb"
    beside: dict[str, object] = field(default_factory=dict)  # other files


def everyone(released, root: Path) -> dict[str, Pupil]:
    """Pupils by name, for a course at `root`, in any system. Harmless oddities share a pupil: each costs a kernel."""

    def good(**answers):
        return answer(deepcopy(released), **answers)

    def doing(lines):
        return good(decay=f"{lines}\n{STEP_DECAY}")

    def stopped(lines, why):
        return Pupil(doing(lines), "stopped", (0, 0), why)

    def doubt(decay, points=0, why="a test that must fail passed"):
        return Pupil(good(decay=decay), "doubtful", (points, 3), why)

    right, cheat, untouched, no_marks = good(), good(decay="return 7"), deepcopy(released), {"points": (0, 0)}
    bare, tampered = deepcopy(right), deepcopy(cheat)
    for cell in bare.cells:
        cell.metadata.clear()
    test = next(cell for cell in tampered.cells if cell.id == "decay-test")
    test.source, test.metadata.tags, test.metadata.nbgrader.grade = "pass", ["skip-execution"], False
    again, die, half = f"{NAME} (1).ipynb", "import os; os._exit(3)", "import os, time; x = b'x' * 500_000_000"
    harmless = "import os, warnings; warnings.warn('look'); print('\\ud800'); w = os.getcwd()"
    dig = "for _ in w * 50: os.path.exists('d') or os.mkdir('d'); os.chdir('d')\nos.chdir(w)"
    startup = {"profile_default/startup/a.py": die, ".specs/a": "", "ipython/b": ""}
    # fmt: off
    return {
        "good": Pupil(right, beside={"timestamp.txt": "2030-01-02 03:04:05 UTC", "rates.txt": "0.1"}),
        "untouched": Pupil(untouched, **no_marks),
        "exits": Pupil(doing("import sys; sys.exit()"), points=(0, 3)),
        "noisy": Pupil(doing(f"{harmless}\n{dig}"), beside={"timestamp.txt": "yesterday, I think"}),
        # Files that other programs have changed
        "colab": Pupil(colab(right)),
        "renamed": Pupil(bare, "repaired", remark="group-test had lost", file=f"Copy of {NAME}.ipynb"),
        "twice": Pupil(right, "repaired", remark="was taken for it", file=again, beside={f"{NAME}.ipynb": untouched}),
        "two": Pupil(right, "repaired", remark="has answers, too", beside={again: cheat}),
        "either": Pupil(right, "missing", **no_marks, file="a.ipynb", beside={"b.ipynb": cheat}),
        "linker": Pupil(right, remark="a is a link or not a file", beside={"b": Path("/etc/passwd"), "a/b": "c"} | startup),
        # Test cells
        "deleted": times(right, "decay-test was missing", decay_test=0, setup=0),
        "copied": times(right, "decay-test was there 2 times", decay=2, decay_test=2),
        "tampered": Pupil(tampered, "repaired", (0, 3), "decay-test had been changed"),
        # Programs that go wrong; those that wait do so for longer than any limit, however busy the machine is
        "loop": Pupil(doing("while True: pass"), "stopped", (0, 3), "decay-test was interrupted"),
        "stubborn": stopped("import time\nwhile 1:\n try: time.sleep(1)\n except BaseException: 0", "did not stop"),
        "memory": stopped(f"{half}\nif os.fork() == 0: y = bytearray(x)\ntime.sleep(9999)", "MB of memory"),
        # What a child shares with its parent counts once.
        "shares": Pupil(doing(f"{half}\nif (c := os.fork()) == 0: time.sleep(1); os._exit(0)\nos.waitpid(c, 0)")),
        "os_exit": stopped("import os; os._exit(0)", "the kernel ended by itself (exit code 0)"),
        "printer": stopped("while True: print('x' * 1_000_000)", " MB"),  # too much shown, or held unsent
        "displays": stopped("while True: display('x' * 100_000)", "displayed more than 10 MB"),
        # It doubles 8 times and then sleeps, so that it harms no machine, whatever the grader does.
        "forks": stopped("import os, time\nfor _ in range(8): os.fork()\ntime.sleep(9999)", "processes"),
        "shadow": Pupil(right, "stopped", (0, 0), "the kernel ended by itself", beside={"ipykernel_launcher.py": die}),
        # Programs that change how tests work
        "isclose": doubt("import numpy as np; np.isclose = lambda *a, **k: True\nreturn 1.0"),
        "abs": doubt("global abs\nabs = lambda x: 0\nreturn 1.0", 2),
        "equal": doubt(
            "class Any(float):\n    __eq__ = __lt__ = lambda *_: True\n"
            "    __sub__ = __abs__ = lambda self, *_: self\nreturn Any()", 2, "its code has __eq__ in it",
        ),
        "transformer": doubt(
            "def no(lines): return [line for line in lines if 'assert' not in line]\n"
            "get_ipython().input_transformers_post.append(no)\nreturn 7"
        ),
        "ast_hook": doubt(
            "import ast\nclass No(ast.NodeTransformer):\n"
            "    def visit_Assert(self, node): return ast.copy_location(ast.Pass(), node)\n"
            "get_ipython().ast_transformers.append(No())\nreturn 7"
        ),
        # Files that are no notebook
        "not_json": Pupil('{"cells": [', "unreadable", (0, 0), "it is not JSON"),
        "binary": Pupil(bytes(range(256)), "unreadable", (0, 0), "not JSON in UTF-8"),
        "huge": Pupil(bytes(21_000_000), "unreadable", (0, 0), "21 MB, 20 are allowed", beside={"a": bytes(21_000_000)}),
        "linked": Pupil(root / "submitted" / "good" / NAME / f"{NAME}.ipynb", "unreadable", (0, 0), "it is a link"),
        "odd": Pupil('{"cells": [1, {}, {"cell_type": "code", "source": ["1", 2]}]}', "foreign", (0, 0), "none of"),
        "no_notebook": Pupil(None, "missing", (0, 0), "no 01_sample.ipynb"),
    }
    # fmt: on


def hostile(released, root: Path, outside: Path, port: int) -> dict[str, Pupil]:
    """Pupils who look where they should not: they answer rightly only if they find nothing.

    `outside` holds a file `key`, and sockets `listening` and, of a tmux server, `tmux`; somebody listens at `port`.
    """

    def unless(*finds):
        """Fail, and say where, if one of these expressions is true; an OSError is as good as false."""
        lines = "import ctypes, glob, os, psutil, socket, subprocess\n"
        for find in finds:
            lines += f"try: found = {find}\nexcept OSError: found = False\nif found: raise SystemError({find!r})\n"
        return Pupil(answer(deepcopy(released), decay=lines + STEP_DECAY))

    key, written, course = str(outside / "key"), str(outside / "written"), str(root)
    tmux = ["tmux", "-S", str(outside / "tmux"), "new-window", "-d", f"touch {written}"]
    writable = [written, f"{course}/written", "/usr/written", "/written", "/dev/written", f"{os.__file__}x"]
    return {
        "reads": unless(
            f"[f for _, d, names in os.walk({course!r}) for f in [*d, *names]]",
            f"open({course + '/gradebook.db'!r}, 'rb').read()", f"open({key!r}).read()", "open('/etc/shadow').read()",
            f"[p for p in glob.glob('/proc/*/root') if os.path.exists(p + {key!r})]",
            "os.listdir(os.path.expanduser('~/.ssh'))",
            "len(psutil.pids()) > 9", "os.getppid() > 9",
        ),
        "calls": unless(
            f"socket.create_connection(('127.0.0.1', {port}), 2)",
            f"socket.socket(socket.AF_UNIX).connect({str(outside / 'listening')!r}) is None",
            f"subprocess.run({tmux}).returncode == 0",
        ),
        "writes": unless(
            *(f"open({path!r}, 'w')" for path in writable), "os.access('/proc/sys/kernel/core_pattern', os.W_OK)",
            *(f"open('{at}/x', 'wb').write(bytes(80_000_000))" for at in ("/tmp", "/dev/shm", "/run")),
        ),
        "grabs": unless(
            "os.system('unshare -Ur true') == 0", "os.system('mount -t tmpfs none /tmp 2>/dev/null') == 0",
            "'CapBnd:\\t0000000000000000' not in open('/proc/self/status').read()", "os.memfd_create('x')",
            "ctypes.CDLL(None).shmget(0, 1 << 30, 0o1600) >= 0", "ctypes.CDLL(None).syscall(250, 0, -3, 0) >= 0",
            "subprocess.Popen(['sleep', '98765.4'], start_new_session=True) is None",  # shall not outlive the kernel
        ),
    }  # fmt: skip


def colab(notebook):
    """As Google Colab writes it: format 4.0 without cell ids, its own metadata, cells added for installing."""
    document = json.loads(nbformat.writes(notebook))
    document |= {"nbformat_minor": 0, "metadata": {"colab": {}, "kernelspec": {"name": "python3-colab"}}}
    extra = {"cell_type": "code", "source": "from google.colab import drive", "metadata": {}, "outputs": []}
    for number, cell in enumerate(document["cells"]):
        cell["metadata"] |= {"id": f"Xy{number}", "outputId": "77-88"}
        del cell["id"]
    document["cells"].insert(0, extra)
    return json.dumps(document)


def times(notebook, remark, **numbers):
    """Somebody whose notebook has each cell once, or as often as `numbers` says."""
    copy = deepcopy(notebook)
    copy.cells = [cell for cell in copy.cells for _ in range(numbers.get(cell.id.replace("-", "_"), 1))]
    return Pupil(json.dumps(copy), "repaired", remark=remark)
