"""The kernel's standard output and error, cut off where a cell prints too much."""

from __future__ import annotations

from ipykernel.iostream import OutStream

from grading.limits import CUT


class LimitedOutStream(OutStream):
    """Passes on `most` characters a cell, both streams together; drops the rest and says so once."""

    most = 10**6
    _left = most

    @classmethod
    def new_cell(cls, *_) -> None:
        cls._left = cls.most

    def write(self, string: str) -> int | None:
        cls = LimitedOutStream
        if not isinstance(string, str) or len(string) <= cls._left:
            if isinstance(string, str):
                cls._left -= len(string)
            return super().write(string)
        if cls._left >= 0:
            kept, cls._left = string[: cls._left], -1
            super().write(f"{kept}\n{CUT} more than {cls.most:,} characters ...\n")
        return len(string)
