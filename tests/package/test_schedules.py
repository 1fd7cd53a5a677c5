import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as torchs
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR
from toy import Told

from lrtut import preview
from lrtut import schedules as s

LR = 0.1
STEPS = 1000


def sequential(optimizer):
    up = torchs.LinearLR(optimizer, start_factor=0.2, total_iters=100)
    level = torchs.ConstantLR(optimizer, factor=1.0)
    down = torchs.LinearLR(optimizer, start_factor=1.0, end_factor=0.05, total_iters=500)
    return torchs.SequentialLR(optimizer, [up, level, down], milestones=[100, 400])


TWINS = [
    (partial(s.constant, factor=0.3), partial(torchs.ConstantLR, factor=0.3, total_iters=10**9)),
    (partial(s.time_decay, k=0.01), partial(LambdaLR, lr_lambda=lambda t: 1 / (1 + 0.01 * t))),
    (partial(s.step_decay, step_size=90, gamma=0.5), partial(StepLR, step_size=90, gamma=0.5)),
    (partial(s.exponential_decay, gamma=0.99), partial(torchs.ExponentialLR, gamma=0.99)),
    (partial(s.polynomial_decay, steps=800, power=2.0), partial(torchs.PolynomialLR, total_iters=800, power=2.0)),
    (partial(s.polynomial_decay, steps=800), partial(torchs.PolynomialLR, total_iters=800)),
    (partial(s.cosine_decay, steps=STEPS, final=0.1), partial(torchs.CosineAnnealingLR, T_max=STEPS, eta_min=0.1 * LR)),
    (partial(s.cosine_decay, steps=STEPS), partial(torchs.CosineAnnealingLR, T_max=STEPS)),
    (partial(s.linear_warmup, steps=300, start=0.05), partial(torchs.LinearLR, start_factor=0.05, total_iters=300)),
    (partial(s.linear_warmup, steps=300), partial(torchs.LinearLR, start_factor=0.1, total_iters=300)),
    (partial(s.warmup_stable_decay, warmup=100, stable=300, decay=500, start=0.2, final=0.05), sequential),
]


@pytest.mark.parametrize("function, twin", TWINS, ids=lambda f: getattr(getattr(f, "func", f), "__name__", None))
def test_pure_functions_agree_with_torch_and_fit_lambda_lr(function, twin):
    ours = LR * np.array([function(t) for t in range(STEPS)])
    np.testing.assert_allclose(ours, preview(twin, lr=LR, steps=STEPS)[:, 0], rtol=1e-12, atol=1e-17)
    np.testing.assert_array_equal(preview(lambda o: LambdaLR(o, function), lr=LR, steps=50)[:, 0], ours[:50])


def test_ends_and_beyond():
    assert s.polynomial_decay(10, steps=10) == s.polynomial_decay(99, steps=10) == 0
    assert s.cosine_decay(99, steps=10, final=0.2) == pytest.approx(0.2)
    assert s.linear_warmup(99, steps=10) == 1 and s.constant(9) == 1.0
    wsd = partial(s.warmup_stable_decay, warmup=4, stable=3, decay=5)
    assert [wsd(t) for t in (0, 4, 7, 12, 99)] == [0.1, 1, 1, 0, 0]
    assert s.warmup_stable_decay(0, warmup=0, stable=1, decay=1) == 1  # no warm-up


# --- preview ----------------------------------------------------------------------------------------------------------


def test_preview_has_a_row_for_each_step_and_a_column_for_each_group():
    table = preview(lambda o: StepLR(o, 2, gamma=0.5), lr=[1.0, 0.1, 0.0], steps=5)
    assert table.dtype == np.float64
    np.testing.assert_allclose(table, np.array([1, 1, 0.5, 0.5, 0.25])[:, None] * [1.0, 0.1, 0.0])
    assert preview(lambda o: StepLR(o, 1), lr=np.array([1.0, 0.5]), steps=np.int64(1)).tolist() == [[1.0, 0.5]]


def test_preview_passes_warnings_on_and_adds_none():
    def warns(optimizer):
        warnings.warn("mind this", UserWarning, stacklevel=1)
        return StepLR(optimizer, 1)

    with pytest.warns(UserWarning, match="mind this"):
        preview(warns, lr=0.1, steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preview(lambda o: StepLR(o, 1), lr=0.1, steps=3)


def test_preview_refuses_a_scheduler_of_another_optimizer_and_what_is_not_a_scheduler():
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(ValueError, match="StepLR belongs to another optimizer.*make_scheduler is given"):
        preview(lambda o: StepLR(other, 1), lr=0.1, steps=1)
    assert other.param_groups[0]["lr"] == 1.0
    for make in (lambda o: [StepLR(o, 1)], lambda o: StepLR, lambda: None):
        with pytest.raises(TypeError, match=r"make_scheduler (returned|is) .*StepLR\(optimizer, 10\)"):
            preview(make, lr=0.1, steps=1)


def test_preview_of_plateau_wants_a_metric():
    def make(optimizer):
        return ReduceLROnPlateau(optimizer, patience=0, factor=0.5)

    with pytest.raises(ValueError, match="give metric="):
        preview(make, lr=1.0, steps=3)
    for metric in ([1.0] * 4, [1.0] * 9, lambda step: 1.0):
        assert preview(make, lr=1.0, steps=4, metric=metric)[:, 0].tolist() == [1.0, 1.0, 0.5, 0.25]


def test_preview_goes_no_farther_than_the_scheduler():
    with pytest.raises(ValueError, match="Tried to step"):
        preview(lambda o: OneCycleLR(o, 0.1, total_steps=5), lr=0.1, steps=6)


def test_preview_tells_a_scheduler_of_another_library_how_many_steps_are_done():
    assert preview(Told, lr=0.1, steps=3)[:, 0] == pytest.approx([0.1, 0.1 / 2, 0.1 / 3])


WAYS = [
    lambda w: torch.optim.AdamW([{"params": w[:1]}, {"params": w[1:], "lr": 0.01}], lr=0.1, betas=(0.8, 0.9)),
    lambda w: torch.optim.SGD([{"params": w, "lr": torch.tensor(0.5)}], momentum=0.8, nesterov=True),
    lambda w: torch.optim.RMSprop(w, lr=0.3),
]


@pytest.mark.parametrize("make", WAYS)
def test_preview_takes_an_optimizer_as_a_template_and_leaves_it_alone(make):
    weights = [torch.zeros(1, requires_grad=True) for _ in range(3)]
    template, twin = make(weights), make(weights)
    before = str(template.state_dict())

    def one_cycle(optimizer):
        return OneCycleLR(optimizer, 1.0, total_steps=9, cycle_momentum="nesterov" in optimizer.defaults)

    table = preview(one_cycle, lr=template, steps=4)
    scheduler = one_cycle(twin)
    for row in table:
        assert row.tolist() == [float(group["lr"]) for group in twin.param_groups]
        twin.step(), scheduler.step()
    assert str(template.state_dict()) == before and "initial_lr" not in template.param_groups[0]


def test_a_metric_of_other_arguments_is_named():
    with pytest.raises(ValueError, match=r"metric takes \(step, loss\), and is given \(step\)"):
        preview(lambda o: ReduceLROnPlateau(o), lr=1.0, steps=2, metric=lambda step, loss: 1.0)
