"""Worker processes that grade in parallel; the death of one costs no other student anything."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import wait
from pathlib import Path

from grading.autograde import FAILED, Grader, Result


def grade_all(make_grader: Callable[[], Grader], folders: Mapping[str, Path], workers: int) -> Iterator[Result]:
    """Results in the order in which they come. Closing the iterator ends the workers and what they run.

    Args:
        make_grader: called once in each worker; it must be picklable.
        folders: the students and their folders.
        workers: how many processes.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(folders.items())[::-1]
    running: dict = {}  # connection -> (process, student)

    def start():
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(make_grader, there), daemon=True)
        process.start()
        there.close()
        return here, process

    def give(connection, process):
        student, folder = waiting.pop()
        running[connection] = process, student
        connection.send((student, folder))

    try:
        for _ in range(min(workers, len(waiting))):
            give(*start())
        while running:
            for connection in wait(list(running)):
                process, student = running.pop(connection)
                try:
                    result = connection.recv()
                except (EOFError, OSError):
                    process.join()
                    said = f"the grading process ended (exit code {process.exitcode}); out of memory?"
                    result = Result(student, FAILED, remarks=[said])
                    connection.close()
                    connection, process = start() if waiting else (None, None)
                if waiting:
                    give(connection, process)
                elif connection is not None:
                    connection.close()  # the worker ends
                yield result
    finally:
        for process, _ in running.values():
            process.kill()
            process.join()


def _work(make_grader: Callable[[], Grader], connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's business
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    grader = make_grader()
    with contextlib.suppress(EOFError):
        while True:
            connection.send(grader.grade(*connection.recv()))
