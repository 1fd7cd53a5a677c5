"""What a submission's code may use."""

from __future__ import annotations

from dataclasses import dataclass

CUT = "... the output is cut off here:"  # what a cell's output says then


@dataclass(frozen=True)
class Limits:
    """Bounds on one submission. Beyond `cell_seconds` a cell is interrupted and the next one runs; beyond the others
    everything that the submission started is killed, and what had not run by then gets no marks.

    Args:
        cell_seconds: wall-clock seconds of one cell.
        seconds: wall-clock seconds of the whole notebook.
        memory_mb: resident megabytes (10^6 bytes) of all its processes together, pages of files left out; pages
            that up to four processes share are counted once; 420 of them are PyTorch's.
        output_mb: megabytes of text that one cell may print; what is more is dropped. All that it displays together
            may be a hundred times as much.
        processes: how many processes it may have at once.
        file_mb: megabytes of one file that it writes.

    Raises:
        ValueError: a bound is not above zero.
    """

    cell_seconds: int = 30
    seconds: int = 120
    memory_mb: int = 2000
    output_mb: float = 0.2
    processes: int = 64
    file_mb: int = 200

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"the limit {name} must be above zero, not {value!r}")
