"""A range test in two processes of DistributedDataParallel, on the loopback address."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lrtut

# Each process takes its half of every batch. The rank and the model are the arguments.
WORKER = """
import datetime, os, sys
import torch, torch.distributed as dist
import lrtut
from test_processes import joint, small

rank, static = int(sys.argv[1]), sys.argv[2] == "static"
patience = datetime.timedelta(seconds=120)
dist.init_process_group("gloo", store=dist.FileStore("meeting", 2), rank=rank, world_size=2, timeout=patience)
model = torch.nn.parallel.DistributedDataParallel(small(), static_graph=static)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
share = [(x[rank::2], y[rank::2]) for x, y in joint()]
before = {name: value.clone() for name, value in model.state_dict().items()}
test = lrtut.lr_range_test(model, optimizer, share, steps=100, progress=False)
kept = all(torch.equal(before[name], value) for name, value in model.state_dict().items())
lrtut.train(model, optimizer, share, epochs=1, progress=False)
torch.save([test.to_dict(), kept, dict(model.module.named_parameters())], f"end{rank}.pt")
dist.barrier()  # neither leaves while the other may need it
os._exit(0)
"""


def small():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(10, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


def joint():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 10, generator=generator)
    y = x[:, :3].argmax(1)
    return [(x[i : i + 32], y[i : i + 32]) for i in range(0, 256, 32)]


@pytest.mark.skipif(sys.platform != "linux", reason="names the loopback device of Linux")
@pytest.mark.parametrize("graph", ["dynamic", "static"])
def test_two_processes_find_the_rate_of_the_joint_batch_and_train_on(graph, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    here = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": here, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "worker.py", rank, graph], cwd=tmp_path, env=environment) for rank in "01"
    ]
    try:
        assert [process.wait(timeout=240) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
            process.wait()
    (one, kept, weights), (other, also_kept, same_weights) = (
        torch.load(tmp_path / f"end{rank}.pt", weights_only=False) for rank in "01"
    )
    assert one == other and kept and also_kept

    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    alone = lrtut.lr_range_test(model, optimizer, joint(), steps=100, progress=False)
    together = lrtut.RangeTest.from_dict(one)
    count = min(len(alone.loss), len(together.loss)) - 5  # beyond the cliff, rounding errors grow
    np.testing.assert_allclose(together.loss[:count], alone.loss[:count], rtol=1e-3)
    assert together.suggestion() == pytest.approx(alone.suggestion(), rel=0.1)

    for x, y in joint():  # the training after it, as in one process that never tested
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    for name, value in model.named_parameters():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-6)
        assert torch.equal(weights[name], same_weights[name])
