"""docs/answers/who_steps.md holds in the libraries' versions of today: `uv run nox -s who_steps`.

The rate is 1/(1 + calls of `scheduler.step()`): so the rates that the optimizer uses tell how often it was stepped.
"""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
DATA = [(torch.ones(2), torch.ones(1))] * 4  # four batches of one


def watched():
    """A model, its optimizer, a scheduler, and a list of how often that had been stepped at each optimizer step."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(round(1e-3 / optimizer.param_groups[0]["lr"] - 1)))
    return model, optimizer, LambdaLR(optimizer, lambda t: 1 / (1 + t)), calls


@pytest.mark.parametrize(
    ("interval", "accumulate", "calls"), [("epoch", 1, [0] * 4 + [1] * 4), ("step", 1, range(8)), ("step", 2, range(4))]
)
def test_lightning_steps_it_after_each_epoch_or_each_optimizer_step(tmp_path, interval, accumulate, calls):
    lightning = pytest.importorskip("pytorch_lightning")
    model, optimizer, scheduler, seen = watched()

    class Module(lightning.LightningModule):
        def __init__(self, automatic=True):
            super().__init__()
            self.model, self.automatic_optimization = model, automatic

        def training_step(self, batch, index):
            loss = nn.functional.mse_loss(self.model(batch[0]), batch[1])
            if not self.automatic_optimization:
                self.manual_backward(loss)
                self.optimizers().step()
            return loss

        def configure_optimizers(self):
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}

    def fit(module, **options):
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        lightning.Trainer(default_root_dir=tmp_path, max_epochs=2, **quiet, **options).fit(module, DataLoader(DATA))

    fit(Module(), accumulate_grad_batches=accumulate)
    assert seen == list(calls)
    before = scheduler.last_epoch
    fit(Module(automatic=False))  # manual: yours to call
    assert scheduler.last_epoch == before


def test_the_trainer_steps_it_after_each_optimizer_step_logs_the_rate_and_resumes_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Model(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x, labels):
            return {"loss": nn.functional.mse_loss(self.model(x), labels)}

    def train(**options):
        model, optimizer, scheduler, seen = watched()
        arguments = transformers.TrainingArguments(
            str(tmp_path), max_steps=4, gradient_accumulation_steps=2, per_device_train_batch_size=1, save_steps=2,
            logging_steps=1, report_to=[], use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
        )  # fmt: skip
        data = [{"x": x, "labels": y} for x, y in DATA]
        trainer = transformers.Trainer(Model(model), arguments, train_dataset=data, optimizers=(optimizer, scheduler))
        trainer.train(**options)
        return seen, [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]

    seen, logged = train()
    assert seen == [0, 1, 2, 3] and len(logged) == 4
    assert train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))[0] == [2, 3]


@pytest.mark.parametrize(
    ("processes", "split", "calls"), [(1, False, [0, 1, 2, 3]), (2, False, [0, 2, 4, 6]), (2, True, [0, 1, 2, 3])]
)
def test_accelerate_counts_optimizer_steps_times_processes(monkeypatch, processes, split, calls):
    accelerate = pytest.importorskip("accelerate")
    from accelerate.scheduler import AcceleratedScheduler

    model, optimizer, scheduler, seen = watched()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(DATA * 2))
    scheduler = AcceleratedScheduler(scheduler, optimizer, split_batches=split)
    for x, y in loader:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.mse_loss(model(x), y))
            optimizer.step()
            with monkeypatch.context() as m:  # as if there were several
                m.setitem(accelerate.state.AcceleratorState._shared_state, "num_processes", processes)
                m.setitem(accelerate.state.PartialState._shared_state, "num_processes", processes)
                scheduler.step()
            optimizer.zero_grad()
    assert seen == calls


@pytest.mark.parametrize("in_epochs", [True, False])
def test_timm_is_told_the_epoch_or_the_update_and_ignores_the_other(in_epochs):
    schedulers = pytest.importorskip("timm.scheduler")
    _, optimizer, _, _ = watched()
    scheduler = schedulers.StepLRScheduler(optimizer, decay_t=1, decay_rate=0.5, t_in_epochs=in_epochs)
    rates = []
    for step in (lambda: scheduler.step_update(1), lambda: scheduler.step(2)):
        step()
        rates.append(optimizer.param_groups[0]["lr"] / 1e-3)
    assert rates == ([1, 0.25] if in_epochs else [0.5, 0.5])


def test_fastai_sets_the_rate_before_each_batch_by_the_share_that_is_done():
    basics, schedule = pytest.importorskip("fastai.basics"), pytest.importorskip("fastai.callback.schedule")

    class Record(basics.Callback):
        order = 61  # after ParamScheduler's

        def before_batch(self):
            rates.extend([round(self.opt.hypers[-1]["lr"], 4)] if self.training else [])

    loaders = basics.DataLoaders(*[basics.DataLoader(DATA, bs=1) for _ in range(2)])
    learner = basics.Learner(loaders, nn.Linear(2, 1), loss_func=nn.MSELoss(), opt_func=basics.SGD)
    learner.remove_cbs([cb for cb in learner.cbs if type(cb).__name__ in ("ProgressCallback", "Recorder")])
    for start in (0, 1):
        rates = []
        linear = schedule.ParamScheduler({"lr": schedule.SchedLin(1.0, 0.0)})
        learner.fit(2, cbs=[linear, Record()], start_epoch=start)
        assert rates == [1 - step / 8 for step in range(4 * start, 8)]


def test_ignite_steps_it_at_the_event_that_it_is_attached_to():
    engine, handlers = pytest.importorskip("ignite.engine"), pytest.importorskip("ignite.handlers")
    model, optimizer, scheduler, seen = watched()
    trainer = engine.create_supervised_trainer(model, optimizer, nn.MSELoss())
    trainer.add_event_handler(engine.Events.ITERATION_STARTED, handlers.LRScheduler(scheduler))
    trainer.run(DataLoader(DATA), max_epochs=2)
    assert seen == list(range(8))
