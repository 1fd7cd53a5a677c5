"""The plumbing of a course on the learning rate in PyTorch: data, a recording loop, sweeps and figures."""

from lrtut import claims, explore
from lrtut.alttext import alt_text
from lrtut.catalogue import CATALOGUE
from lrtut.curvature import sharpness
from lrtut.data import Digits, batches, load_mnist, normalise
from lrtut.evaluation import evaluate
from lrtut.figure import subplots
from lrtut.finder import NoSuggestion, RangeTest, lr_range_test
from lrtut.models import mlp, small_cnn, tiny_gpt
from lrtut.pictures import plot_images
from lrtut.plotting import lr_colors, plot_loss, plot_lr, plot_paths, plot_sweep
from lrtut.schedules import preview
from lrtut.sweep import Run, sweep
from lrtut.text import Text, load_text, text_batches
from lrtut.training import History, train
from lrtut.vectorised import vectorised_sweep
from lrtut.version import VersionError, __version__, require

# fmt: off
__all__ = [
    "CATALOGUE", "Digits", "History", "NoSuggestion", "RangeTest", "Run", "Text", "VersionError", "__version__",
    "alt_text", "batches", "evaluate", "explore", "load_mnist", "load_text", "lr_colors", "lr_range_test", "mlp",
    "normalise", "plot_images", "plot_loss", "plot_lr", "plot_paths", "plot_sweep", "preview", "require", "sharpness",
    "small_cnn", "subplots", "sweep", "text_batches", "tiny_gpt", "train", "vectorised_sweep",
]
# fmt: on

claims.register()
