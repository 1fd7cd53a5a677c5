"""Take from this process what a submission does not need: network, other files, other processes, privileges.

Every step may be refused by the system (containers often forbid namespaces); `Sandbox.enter` says what was achieved.
Linux only. Sources: namespaces(7), mount_setattr(2), capabilities(7), prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

CLONE_NEWNS, CLONE_NEWIPC = 0x00020000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 0x1000, 0x4000, 0x40000
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 24, 36, 38
SYS_MOUNT_SETATTR = 442  # the same number on every architecture
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = -100, 0x8000, 1
# The keys of `enter` and `probe`, as the teachers' page names them.
PROTECTIONS = {
    "processes": "sees no other process and leaves none behind",
    "network": "no network",
    "files": "cannot see the course's sources, gradebook and other submissions",
    "read-only": "can write nowhere but in its own scratch folder",
    "privileges": "no privileges of root",
}

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _call(name: str, *args) -> None:
    if getattr(_libc, name)(*args) == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    _call("mount", encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])


def _mount_read_only(path: str, on: bool, recursive: bool) -> None:
    """Whether the mount at `path`, and with `recursive` all below it, may be written to."""
    bits = struct.pack("QQQQ", MOUNT_ATTR_RDONLY if on else 0, 0 if on else MOUNT_ATTR_RDONLY, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    _call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(path), flags, bits, ctypes.c_size_t(len(bits)))


def adopt_orphans() -> None:
    """From now on, processes below this one whose parent ends become its own children, wherever they hide."""
    _call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def separate_processes() -> bool:
    """Let the next child be the first process of a new process namespace: when it ends, all in it end."""
    uid, gid = os.getuid(), os.getgid()
    try:
        if uid:
            _call("unshare", CLONE_NEWUSER | CLONE_NEWPID)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        else:
            _call("unshare", CLONE_NEWPID)
    except OSError:
        return False
    return True


def enter(scratch: str, hide: Sequence[str], file_mb: int, alone: bool) -> set[str]:
    """Lock this process in; call it in the child that is to run the student's code, before any thread starts.

    Args:
        scratch: the folder that stays writable.
        hide: files and folders that shall look empty.
        file_mb: largest file it may write.
        alone: whether `separate_processes` worked in the parent.

    Returns:
        those keys of PROTECTIONS that are in force.
    """
    achieved = {"processes"} if alone else set()
    if _try(_cut_network):
        achieved.add("network")
    if _try(_own_mounts):
        _try(_mount, "proc", "/proc", "proc", MS_NOSUID | MS_NODEV)
        if _try(_hide, scratch, hide):
            achieved.add("files")
        if _try(_write_only_in, scratch):
            achieved.add("read-only")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_mb * 10**6, file_mb * 10**6))
    if _try(_drop_privileges):
        achieved.add("privileges")
    return achieved


def _try(step, *args) -> bool:
    try:
        step(*args)
    except OSError:
        return False
    return True


def _cut_network() -> None:
    _call("unshare", CLONE_NEWNET | CLONE_NEWIPC)


def _own_mounts() -> None:
    _call("unshare", CLONE_NEWNS)
    _mount("none", "/", None, MS_REC | MS_PRIVATE)


def _hide(scratch: str, hide: Sequence[str]) -> None:
    kept = os.open(scratch, os.O_PATH | os.O_DIRECTORY)
    try:
        for path in hide:
            if os.path.isdir(path):
                _mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
            elif os.path.exists(path):
                _mount("/dev/null", path, None, MS_BIND)
        if not os.path.isdir(scratch):  # it stood in a folder that is hidden now
            os.makedirs(scratch)
            _mount(f"/proc/self/fd/{kept}", scratch, None, MS_BIND)
        else:
            _mount(scratch, scratch, None, MS_BIND)
    finally:
        os.close(kept)


def _write_only_in(scratch: str) -> None:
    _mount_read_only("/", True, recursive=True)
    _mount_read_only(scratch, False, recursive=False)
    # Pools of processes share their memory here; 64 MB is what containers give.
    _mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,mode=1777")


def _drop_privileges() -> None:
    """No capability now, none through a program with the set-user-id bit. The user stays the same."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        _try(_call, "prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    version_3 = struct.pack("Ii", 0x20080522, 0)
    _call("capset", version_3, struct.pack("6I", *[0] * 6))
