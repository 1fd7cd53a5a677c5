"""Figures that one can move: each function returns a chart with sliders; put the call last in a cell.

    lrtut.explore.parabola()

A chart is a Vega-Lite specification (version 5, which JupyterLab carries). The browser computes what the sliders ask
for: it needs neither a kernel nor a network. On Colab it is HTML, and Vega comes from a CDN. The arrow keys move a
slider, too; in JupyterLab, which has other uses for them, together with Shift.
"""

from lrtut.explore.batches import batch_sizes
from lrtut.explore.chart import Chart
from lrtut.explore.descent import parabola, valley
from lrtut.explore.recorded import edge, range_test, sweep
from lrtut.explore.schedules import half_life, schedule

__all__ = ["Chart", "batch_sizes", "edge", "half_life", "parabola", "range_test", "schedule", "sweep", "valley"]
