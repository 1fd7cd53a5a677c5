"""An argument of a wrong kind is named, with a way out, by every public function."""

import math
import re

import matplotlib.pyplot as plt
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from toy import network, pairs, sgd

import lrtut
from lrtut import schedules

MODEL = network()
ODD = [None, 3, -1.5, float("nan"), True, "odd", b"odd", 1j, {"x": 1}, {1}, object(), int, torch.ones(2, 2, 2), [None]]
NUMBERS = [None, "odd", b"odd", 1j, {"x": 1}, {1}, object(), int, torch.ones(2, 2, 2), [None]]
WHOLE = [*NUMBERS, -1.5, float("nan"), True, 0]
GUESSES = [*NUMBERS[1:], math.nan]
LISTS = [value for value in ODD if not isinstance(value, set | list | torch.Tensor)]
DRAWN = {"ax": ODD[1:]}
TRAINED = {"model": MODEL, "optimizer": sgd(MODEL), "data": pairs(), "epochs": 1, "progress": False}
TESTED = {"model": MODEL, "optimizer": sgd(MODEL), "batches": pairs(), "steps": 20, "progress": False}

CASES = {
    lrtut.train: (TRAINED, {"model": ODD, "optimizer": ODD, "data": ODD[:9], "epochs": WHOLE, "loss_fn": ODD,
                            "scheduler": ODD[1:], "scheduler_step": ODD, "train_step": ODD[1:],
                            "log_interval": WHOLE[1:]}),
    lrtut.lr_range_test: (TESTED, {"model": ODD, "optimizer": ODD, "batches": ODD[:9], "loss_fn": ODD, "scale": ODD,
                                   "start_lr": [*WHOLE, 10.0], "end_lr": [*WHOLE, math.inf, 1e-6],
                                   "steps": [*WHOLE, 19], "train_step": ODD[1:],
                                   "restore": [None, 3, object(), int, [3], ["odd"]]}),
    lrtut.evaluate: ({"model": MODEL, "data": pairs()}, {"model": ODD, "data": ODD[:9], "loss_fn": ODD}),
    lrtut.batches: ({"x": torch.ones(4, 2), "y": torch.ones(4)},
                    {"x": [*ODD[:12], ODD[13]], "y": [*ODD[:12], ODD[13]], "batch_size": WHOLE, "seed": WHOLE[:8]}),
    lrtut.load_mnist: ({"root": "digits"}, {"root": [3, *ODD[3:5], *ODD[6:]], "train_size": WHOLE[1:],
                                            "seed": WHOLE[:8], "device": NUMBERS[1:]}),
    lrtut.normalise: ({}, {"x": [*ODD[:12], ODD[13]]}),
    lrtut.mlp: ({}, {"seed": WHOLE[:8], "hidden": WHOLE, "device": NUMBERS[1:]}),
    lrtut.small_cnn: ({}, {"seed": WHOLE[:8], "hidden": WHOLE, "device": NUMBERS[1:]}),
    lrtut.sweep: ({"run": lambda lr, seed: 1, "lrs": [0.1]}, {"run": [*ODD[:11], ODD[12]], "lrs": LISTS, "seeds": LISTS,
                                                              "executor": ODD[1:], "keep": ODD[1:], "key": ODD[1:]}),
    lrtut.vectorised_sweep: ({"make_model": lambda seed: network(), "data": pairs(), "lrs": [0.1], "epochs": 1},
                             {"make_model": ODD[:11], "data": ODD[:9], "lrs": LISTS, "seeds": LISTS, "epochs": WHOLE,
                              "make_optimizer": ODD[:11], "batch_size": WHOLE, "schedule": ODD[1:11], "loss_fn": ODD,
                              "val": ODD[1:9], "at_once": WHOLE}),
    lrtut.preview: ({"make_scheduler": ReduceLROnPlateau, "lr": 0.1, "steps": 2, "metric": [1, 1]},
                    {"make_scheduler": ODD, "lr": [*NUMBERS, -1.5, math.nan, math.inf, True, [], [0.1, -0.2]],
                     "steps": WHOLE, "metric": [*ODD, [1.0, math.nan], [1.0], []]}),
    schedules.step_decay: ({"step": 1, "gamma": 0.5}, {"step_size": WHOLE}),
    schedules.polynomial_decay: ({"step": 1}, {"steps": WHOLE}),
    schedules.cosine_decay: ({"step": 1}, {"steps": WHOLE}),
    schedules.linear_warmup: ({"step": 1}, {"steps": WHOLE}),
    schedules.warmup_stable_decay: ({"step": 9, "warmup": 1, "stable": 1}, {"decay": WHOLE}),
    lrtut.plot_paths: ({"paths": {0.1: [1, 2]}}, {"paths": [*ODD[:8], *ODD[9:]], "guess": GUESSES, **DRAWN}),
    lrtut.plot_loss: ({"histories": lrtut.History([1.0], [[0.1]])},
                      {"histories": ODD, "window": WHOLE, "yscale": ODD, "guess": GUESSES, **DRAWN}),
    lrtut.plot_lr: ({"lrs": [0.1, 0.2]}, {"lrs": NUMBERS, "steps_per_epoch": WHOLE[1:], "guess": GUESSES, **DRAWN}),
    lrtut.plot_sweep: ({"runs": [lrtut.Run(0.1, 0, 1.0)]}, {"runs": ODD, "guess": [*GUESSES, -1.5, 0, math.inf],
                                                             **DRAWN}),
    lrtut.plot_images: ({"x": torch.ones(2, 1, 4, 4)}, {"x": ODD, "y": [*ODD[1:-1], [1]], "columns": WHOLE, **DRAWN}),
    lrtut.lr_colors: ({}, {"lrs": [*NUMBERS, float("nan")]}),
    lrtut.subplots: ({}, {"nrows": WHOLE, "ncols": WHOLE}),
    lrtut.alt_text: ({}, {"figure": ODD}),
    lrtut.require: ({}, {"version": ODD}),
}  # fmt: skip


CALLS = [
    pytest.param(function, right, name, values, id=f"{function.__name__}-{name}")
    for function, (right, wrong) in CASES.items()
    for name, values in wrong.items()
]


@pytest.mark.parametrize("function, right, name, values", CALLS)
def test_an_argument_of_a_wrong_kind_is_named(function, right, name, values):
    for value in values:
        with pytest.raises((ValueError, TypeError)) as caught:
            function(**right | {name: value})
        words = str(caught.value)
        assert (re.search(rf"\b{name}\b", words) or repr(value) in words) and ": " in words, (value, words)
        assert "/lrtut/" in caught.traceback[-1].path.as_posix(), words  # not torch's or numpy's own
    assert plt.get_fignums() == []
