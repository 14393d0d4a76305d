"""Two processes train as one. Under torchrun, with a folder and a job as arguments, this file runs one of `JOBS`."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.data.augmentation import Augmentation
from nas.data.dataset import ImageDataset
from nas.data.loader import Batch, TrainingBatches
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
from nas.training.recipe import Recipe, Runtime, learning_rate, sgd
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


# Jobs of a process


def train(folder: Path, dies: bool = False) -> None:
    """Train on this process's share; rank 1 may die in epoch 2 of its first start."""

    def on_epoch(epoch: Epoch) -> None:
        if dies and epoch.epoch == 2 and distributed.rank() == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        if distributed.is_first():
            print("epoch", epoch.epoch, flush=True)

    own = Checkpoint(folder, "train", "f" * 64) if distributed.is_first() else None
    trained, strategy = supernet(), BestUp(Unconstrained(SPACE), 3)
    if own is not None:
        own.__enter__()
    trainer = Trainer(
        trained, batches(distributed.batch_share(RECIPE.batch)), strategy,
        epochs=EPOCHS, seed=SEED, place="train", recipe=RECIPE, runtime=RUNTIME, device=CPU,
    )  # fmt: skip
    trainer.fit(distributed.RankZeroCheckpoint(own), lambda: (0.0, 0.0), on_epoch)
    save_weights(folder / f"{distributed.rank()}.safetensors", trained)


def map_squares(folder: Path) -> None:
    """The squares of 0 to 69, each computed once, and the broadcast of rank 0."""
    computed = []

    def squares(own: list[int]) -> list[float]:
        computed.extend(own)
        return [float(i * i) for i in own]

    results = list(distributed.map_sharded(squares, range(70)))
    sent = distributed.broadcast({"x": torch.arange(3), "y": [1, "a", None]} if distributed.is_first() else None)
    means = distributed.mean(torch.tensor([0.1, 0.7]) * (1 + distributed.rank())).tolist()
    np.savez(folder / f"{distributed.rank()}.npz", results=results, computed=computed, x=sent["x"], y=str(sent["y"]), means=means)


def map_different_values(folder: Path) -> None:
    """Every process has different values."""
    list(distributed.map_sharded(lambda own: [0.0] * len(own), [distributed.rank()] * 3))


JOBS = {"train": train, "die": partial(train, dies=True), "map": map_squares, "differ": map_different_values}


def run_two(folder: Path, job: str, restarts: int = 0) -> subprocess.CompletedProcess:
    """Two processes under torchrun, as `launch` starts them."""
    launcher = Launcher(processes=2, nodes=1, rendezvous=None, restarts=restarts)
    command = launcher.command("MODULE")[:-2]
    environment = os.environ | launcher.environment() | {"PYTHONPATH": str(Path(distributed.__file__).parents[2])}
    arguments = [sys.executable, *command, __file__, str(folder), job]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300)


# Tests


def halves(batch: Batch) -> list[Batch]:
    middle = len(batch.labels) // 2
    return [Batch(batch.images[s], batch.labels[s], batch.indices[s]) for s in (slice(0, middle), slice(middle, None))]


def train_halves_in_turn() -> Supernet:
    """The same training in one process: the halves of each batch in turn, each with its own batch-norm statistics."""
    net, strategy = supernet(), BestUp(Unconstrained(SPACE), 3)
    optimizer, training_batches = sgd(net, RECIPE.learning_rate, RECIPE.momentum, RECIPE.weight_decay), batches()
    peak = RECIPE.learning_rate * RECIPE.batch / 256
    for epoch in range(EPOCHS):
        mask_key = seeding.key(SEED, "train", "regularisation", epoch)
        for i, batch in enumerate(training_batches.epoch(epoch)):
            step = epoch * training_batches.steps + i
            rng = seeding.generator(SEED, "train", "architectures", step)
            groups = [strategy.candidates(rng) for _ in range(RECIPE.sampled)]
            with torch.no_grad():
                losses = {
                    arch: np.mean([label_loss(net(h.images, arch), h.labels, RECIPE.label_smoothing).item() for h in halves(batch)])
                    for group in groups
                    for arch in group
                }
            best = [min(group, key=losses.get) for group in groups]
            optimizer.zero_grad()
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
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, training_batches.steps, EPOCHS, peak, RECIPE.warmup_epochs)
            optimizer.step()
    return net


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """Folder of a training by two processes without interruption."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = run_two(folder, "train")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_two_processes_train_as_one_with_a_batch_twice_as_large(uninterrupted):
    """After nine steps the weights equal those of one process that trains the halves in turn; both ranks have the same bits."""
    first, second, expected = supernet(), supernet(), train_halves_in_turn()
    load_weights(uninterrupted / "0.safetensors", first)
    load_weights(uninterrupted / "1.safetensors", second)
    start = supernet()
    for name, weight in expected.named_parameters():
        got = first.get_parameter(name)
        assert torch.equal(got, second.get_parameter(name)), name
        torch.testing.assert_close(got, weight, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first.stem.weight, start.stem.weight, atol=1e-2)


@pytest.mark.slow
def test_all_processes_resume_from_the_last_checkpoint_after_one_is_killed(uninterrupted, tmp_path):
    """torchrun restarts both; the final weights equal those of the uninterrupted run bit for bit."""
    done = run_two(tmp_path, "die", restarts=1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("epoch 1 of 3") == 1 and "9 to do, 6 of them done" in done.stdout
    resumed, expected = supernet(), supernet()
    load_weights(tmp_path / "0.safetensors", resumed)
    load_weights(uninterrupted / "0.safetensors", expected)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), expected.parameters()))


def test_work_is_divided_and_all_ranks_have_the_results(tmp_path):
    """Each square is computed by one of two processes; both have all results, the broadcast and the means."""
    done = run_two(tmp_path, "map")
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [np.load(tmp_path / f"{i}.npz") for i in range(2)]
    for rank in ranks:
        assert rank["results"].tolist() == [i * i for i in range(70)]
        assert rank["x"].tolist() == [0, 1, 2] and str(rank["y"]) == "[1, 'a', None]"
        assert rank["means"] == pytest.approx([0.15, 1.05])
    one, other = (set(rank["computed"].tolist()) for rank in ranks)
    assert one | other == set(range(70)) and not one & other and abs(len(one) - len(other)) <= 2


@pytest.mark.slow
def test_processes_with_different_architectures_are_an_error(tmp_path):
    """Otherwise results would be assigned to the wrong architectures."""
    done = run_two(tmp_path, "differ")
    assert done.returncode != 0 and "do not evaluate the same architectures" in done.stderr


def test_a_single_process_has_the_whole_batch():
    """It has the whole batch, all values and the state itself."""
    state = {"x": 1}
    assert distributed.batch_share(21) == slice(0, 21) and distributed.is_first() and distributed.broadcast(state) is state
    assert list(distributed.map_sharded(lambda own: [2.0 * i for i in own], [1, 2])) == [2.0, 4.0]


def test_a_batch_that_cannot_be_divided_is_an_error(monkeypatch):
    """For 20 images and 3 processes the message names the key."""
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(ValueError, match=r"recipe\.batch 20 .* 3 processes"):
        distributed.batch_share(20)


def test_several_machines_need_a_rendezvous():
    """One machine listens on the loopback address only; two need the address of the first."""
    with pytest.raises(ValueError, match="rendezvous is needed"):
        Launcher(processes=1, nodes=2, rendezvous=None, restarts=0)
    assert "loopback" in Launcher(processes=2, nodes=1, rendezvous=None, restarts=0).command("m")
    assert "gpu1:29500" in Launcher(processes=8, nodes=2, rendezvous="gpu1:29500", restarts=0).command("m")


if __name__ == "__main__":
    with distributed.process_group():
        JOBS[sys.argv[2]](Path(sys.argv[1]))
