"""Two processes as one. Run by torchrun with a folder and a job, this file is what a process does: see `JOBS`."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.data.dataset import ImageDataset
from nas.data.loader import Augmentation, Batch, TrainingBatches
from nas.data.sources import ArrayImages
from nas.data.splits import Parts
from nas.models.layers import Regularisation
from nas.models.supernet import Supernet
from nas.runtime import distributed, seeding
from nas.runtime.checkpoint import Checkpoint, load_weights, save_weights
from nas.runtime.distributed import Launcher
from nas.sampling.attentive import BestUp
from nas.sampling.uniform import Unconstrained
from nas.spaces.mbconv import SearchSpace, StageSpace
from nas.training.losses import KL, label_loss
from nas.training.recipe import Recipe, Runtime, learning_rate, optimizer
from nas.training.sandwich import sandwich_step
from nas.training.trainer import Epoch, Trainer

CPU, SEED, EPOCHS = torch.device("cpu"), 5, 3
SPACE = SearchSpace(
    "two", (16, 20), (8,), 2, (StageSpace("mb1", (8, 16), (1, 2), (3, 5), (1, 2), stride=2, se=True),), (16, 32), head_expansion=2
)
RUNTIME = Runtime(device="cpu", threads=1, evaluators=1, workers=0, precision="fp32", channels_last=True)
RECIPE = Recipe(
    zero_init=False, batch=20, learning_rate=1.0, warmup_epochs=0.5, momentum=0.9, weight_decay=1e-5, label_smoothing=0.1,
    distillation=KL(), dropout=0.2, drop_connect=0.2, clip_value=1.0, sampled=2,
    augmentation=Augmentation(crop_scale=(0.8, 1.0), flip=True, policy="none"),
)  # fmt: skip


def images() -> ImageDataset:
    """60 images of three colours."""
    labels = np.arange(60, dtype=np.int64) % 3
    pixels = np.random.default_rng(0).integers(150, size=(60, 20, 20, 3), dtype=np.uint8)
    pixels[np.arange(60), :, :, labels] += 60
    names = ("red", "green", "blue")
    return ImageDataset(
        "two", "Two", ArrayImages(pixels, labels, names), names, (0.37,) * 3, (0.2,) * 3, 20, Parts(np.repeat("train", 60)), False
    )


def supernet() -> Supernet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Supernet(SPACE, 3, zero_init=False)


def batches(share: slice = slice(None)) -> TrainingBatches:
    data = images()
    return TrainingBatches(data, data.indices("train"), RECIPE.batch, RECIPE.augmentation, SEED, share=share)


# What a process does


def train(folder: Path, dies: bool = False) -> None:
    """Train on this process's share; the second one may die in epoch 2 of its first life."""

    def on_epoch(row: Epoch) -> None:
        if dies and row.epoch == 2 and distributed.rank() == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        if distributed.first():
            print("epoch", row.epoch, flush=True)

    own = Checkpoint(folder, "train", "f" * 64) if distributed.first() else None
    trained, strategy = supernet(), BestUp(Unconstrained(SPACE), 3)
    if own is not None:
        own.__enter__()
    trainer = Trainer(
        trained, batches(distributed.share(RECIPE.batch)), strategy,
        epochs=EPOCHS, seed=SEED, place="train", recipe=RECIPE, runtime=RUNTIME, device=CPU,
    )  # fmt: skip
    trainer.fit(distributed.FirstSaves(own), lambda: (0.0, 0.0), on_epoch)
    save_weights(folder / f"{distributed.rank()}.safetensors", trained)


def share_out(folder: Path) -> None:
    """The squares of 0 to 69, each computed once, and what the first one sends."""
    computed = []

    def squares(mine: list[int]) -> list[float]:
        computed.extend(mine)
        return [float(i * i) for i in mine]

    found = list(distributed.each(squares, range(70)))
    sent = distributed.from_first({"x": torch.arange(3), "y": [1, "a", None]} if distributed.first() else None)
    means = distributed.mean(torch.tensor([0.1, 0.7]) * (1 + distributed.rank())).tolist()
    np.savez(folder / f"{distributed.rank()}.npz", found=found, computed=computed, x=sent["x"], y=str(sent["y"]), means=means)


def differ(folder: Path) -> None:
    """Each process has another list."""
    list(distributed.each(lambda mine: [0.0] * len(mine), [distributed.rank()] * 3))


JOBS = {"train": train, "die": partial(train, dies=True), "share": share_out, "differ": differ}


def two(folder: Path, job: str, restarts: int = 0) -> subprocess.CompletedProcess:
    """Two processes under torchrun, as `launch` starts them."""
    launcher = Launcher(processes=2, nodes=1, rendezvous=None, restarts=restarts)
    command = launcher.command("MODULE")[:-2]
    environment = os.environ | launcher.environment() | {"PYTHONPATH": str(Path(distributed.__file__).parents[2])}
    words = [sys.executable, *command, __file__, str(folder), job]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)


# Tests


def halves(batch: Batch) -> list[Batch]:
    middle = len(batch.labels) // 2
    return [Batch(batch.images[s], batch.labels[s], batch.indices[s]) for s in (slice(0, middle), slice(middle, None))]


def by_hand() -> Supernet:
    """The same training in one process: the halves of each batch one after the other, batch norm by itself on each."""
    net, strategy = supernet(), BestUp(Unconstrained(SPACE), 3)
    sgd, whole = optimizer(net, RECIPE), batches()
    for epoch in range(EPOCHS):
        mask_key = seeding.key(SEED, "train", "regularisation", epoch)
        for i, batch in enumerate(whole.epoch(epoch)):
            step = epoch * whole.steps + i
            rng = seeding.generator(SEED, "train", "architectures", step)
            groups = [strategy.candidates(rng) for _ in range(RECIPE.sampled)]
            with torch.no_grad():
                losses = {
                    arch: np.mean([label_loss(net(h.images, arch), h.labels, RECIPE.label_smoothing).item() for h in halves(batch)])
                    for group in groups
                    for arch in group
                }
            best = [min(group, key=losses.get) for group in groups]
            sgd.zero_grad()
            for half in halves(batch):
                masks = Regularisation(RECIPE.dropout, RECIPE.drop_connect, half.indices + mask_key)
                images = half.images.contiguous(memory_format=torch.channels_last)
                sandwich_step(
                    net, images, half.labels, lambda score, best=best: best, masks, RECIPE.label_smoothing, RECIPE.distillation, RUNTIME
                )
            for p in net.parameters():
                if p.grad is not None:
                    p.grad /= 2
            torch.nn.utils.clip_grad_value_(net.parameters(), RECIPE.clip_value)
            for group in sgd.param_groups:
                group["lr"] = learning_rate(step, whole.steps, EPOCHS, RECIPE.learning_rate * RECIPE.batch / 256, RECIPE.warmup_epochs)
            sgd.step()
    return net


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """What two processes trained, undisturbed."""
    folder = tmp_path_factory.mktemp("together")
    done = two(folder, "train")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_two_processes_train_as_one_with_a_batch_twice_as_large(together):
    """After nine steps the weights are those of one process that takes the halves in turn, to 1e-5; both processes have the same bits."""
    first, second, expected = supernet(), supernet(), by_hand()
    load_weights(together / "0.safetensors", first)
    load_weights(together / "1.safetensors", second)
    start = supernet()
    for name, weight in expected.named_parameters():
        got = first.get_parameter(name)
        assert torch.equal(got, second.get_parameter(name)), name
        torch.testing.assert_close(got, weight, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first.stem.weight, start.stem.weight, atol=1e-2)


@pytest.mark.slow
def test_after_a_process_was_killed_all_go_on_from_the_last_checkpoint(together, tmp_path):
    """torchrun starts both again; the weights at the end are those of the undisturbed run, bit for bit."""
    done = two(tmp_path, "die", restarts=1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("epoch 1 of 3") == 1 and "9 to do, 6 of them before" in done.stdout
    found, expected = supernet(), supernet()
    load_weights(tmp_path / "0.safetensors", found)
    load_weights(together / "0.safetensors", expected)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters()))


def test_work_is_shared_out_and_results_are_everywhere(tmp_path):
    """Each square is computed by one of two processes, both have all in order, what the first sent, and the means."""
    done = two(tmp_path, "share")
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [np.load(tmp_path / f"{i}.npz") for i in range(2)]
    for rank in ranks:
        assert rank["found"].tolist() == [i * i for i in range(70)]
        assert rank["x"].tolist() == [0, 1, 2] and str(rank["y"]) == "[1, 'a', None]"
        assert rank["means"] == pytest.approx([0.15, 1.05])
    one, other = (set(rank["computed"].tolist()) for rank in ranks)
    assert one | other == set(range(70)) and not one & other and abs(len(one) - len(other)) <= 2


@pytest.mark.slow
def test_processes_that_evaluate_other_architectures_stop(tmp_path):
    """Else the results of one would be taken for those of another."""
    done = two(tmp_path, "differ")
    assert done.returncode != 0 and "do not evaluate the same architectures" in done.stderr


def test_one_process_takes_everything():
    """Nothing of it shows: the whole batch, all items, the state itself."""
    state = {"x": 1}
    assert distributed.share(21) == slice(0, 21) and distributed.first() and distributed.from_first(state) is state
    assert list(distributed.each(lambda mine: [2.0 * i for i in mine], [1, 2])) == [2.0, 4.0]


def test_a_batch_that_cannot_be_divided_is_refused(monkeypatch):
    """20 images among 3 processes: the key is named."""
    monkeypatch.setattr(distributed, "ranks", lambda: 3)
    with pytest.raises(ValueError, match=r"recipe\.batch 20 .* 3 processes"):
        distributed.share(20)


def test_many_machines_need_a_place_to_meet():
    """One machine listens on the loopback address alone; for two, the first one's is needed."""
    with pytest.raises(ValueError, match="rendezvous is needed"):
        Launcher(processes=1, nodes=2, rendezvous=None, restarts=0)
    assert "loopback" in Launcher(processes=2, nodes=1, rendezvous=None, restarts=0).command("m")
    assert "gpu1:29500" in Launcher(processes=8, nodes=2, rendezvous="gpu1:29500", restarts=0).command("m")


if __name__ == "__main__":
    with distributed.group():
        JOBS[sys.argv[2]](Path(sys.argv[1]))
