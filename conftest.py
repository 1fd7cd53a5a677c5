"""For every test and every notebook: the data are looked for once, and kernels compute with one torch thread."""

import os
import signal

import pytest


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # xdist's workers inherit what the first process found
        from lrtut.data import find_data
        from lrtut.execution import kernel_environment

        os.environ.update(kernel_environment(find_data()[0]))


@pytest.fixture
def ctrl_c():
    """Python's own handling of Ctrl-C, also where the tests were started in the background, which ignores it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)
