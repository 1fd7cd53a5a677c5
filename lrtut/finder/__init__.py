"""The learning-rate range test: the run, the rules that read its curve, its figure, and what puts everything back."""

from lrtut.finder.range_test import RangeTest, lr_range_test
from lrtut.finder.rules import NoSuggestion

__all__ = ["NoSuggestion", "RangeTest", "lr_range_test"]
