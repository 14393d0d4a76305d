"""The trainer learns, resumes bit for bit, and recovers from non-finite losses."""

import io

import numpy as np
import pytest
import torch

from nas.data.augmentation import Augmentation
from nas.data.loader import EvaluationBatches, TrainingBatches
from nas.evaluation.evaluate import Scorer
from nas.models.supernet import Supernet
from nas.runtime.checkpoint import Checkpoint
from nas.sampling.attentive import BestUp, Uniform
from nas.sampling.uniform import Unconstrained
from nas.training.losses import KL
from nas.training.recipe import Recipe, Runtime
from nas.training.recovery import Recovery
from nas.training.trainer import Epoch, Trainer

CPU = torch.device("cpu")
RUNTIME = Runtime(device="cpu", threads=1, evaluators=1, workers=0, precision="fp32", channels_last=True)
RECIPE = Recipe(
    zero_init=False, batch=20, learning_rate=2.0, warmup_epochs=0.5, momentum=0.9, weight_decay=1e-5, label_smoothing=0.1,
    distillation=KL(), dropout=0.2, drop_connect=0.2, clip_value=1.0, sampled=2,
    augmentation=Augmentation(crop_scale=(0.8, 1.0), flip=True, policy="none"),
)  # fmt: skip


class Stopped(Exception):
    """Stands for a killed process."""


def never(epoch: int, step: int) -> bool:
    return False


class Poisoned(TrainingBatches):
    """Batches of which some have a NaN pixel."""

    def epoch(self, epoch):
        for step, batch in enumerate(super().epoch(epoch)):
            if self.poison(epoch, step):
                batch.images[0, 0, 0, 0] = torch.nan
            yield batch


@pytest.fixture
def train(easy_set, tiny_space, tmp_path, monkeypatch):
    """Train a new supernet, from the checkpoint in tmp_path/<name> if there is one; returns it with its history."""
    monkeypatch.setattr("sys.stderr", io.StringIO())

    def train(
        name,
        weights=0,
        epochs=3,
        recipe=RECIPE,
        strategy=None,
        validate=lambda: (0.0, 0.0),
        on_epoch=lambda epoch: None,
        seed=5,
        poison=never,
    ):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(weights)
            supernet = Supernet(tiny_space, 3, recipe.zero_init)
        batches = Poisoned(easy_set, easy_set.indices("train"), recipe.batch, recipe.augmentation, seed)
        batches.poison = poison
        strategy = strategy or BestUp(Unconstrained(tiny_space), 3)
        with Checkpoint(tmp_path / name, "train", "f" * 64) as checkpoint:
            trainer = Trainer(
                supernet, batches, strategy, epochs=epochs, seed=seed, place="train", recipe=recipe, runtime=RUNTIME, device=CPU
            )
            trainer.fit(checkpoint, validate, on_epoch)
        (checkpoint.folder / "finished").unlink()  # the stage goes on after training
        return supernet, trainer.history

    return train


def same(a: Supernet, b: Supernet) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def stop_in(epoch: int):
    def on_epoch(finished: Epoch) -> None:
        if finished.epoch == epoch:
            raise Stopped

    return on_epoch


def test_a_resumed_training_ends_with_the_same_weights(train):
    """Stopped in epochs 2 and 3 and resumed in networks with other weights, it ends with the same bits and history."""
    uninterrupted, history = train("uninterrupted")
    for epoch, weights in ((2, 0), (3, 1)):
        with pytest.raises(Stopped):
            train("stopped", weights, on_epoch=stop_in(epoch))
    seen = []
    resumed, resumed_history = train("stopped", 2, on_epoch=seen.append)
    assert [epoch.epoch for epoch in seen] == [3]
    assert same(resumed, uninterrupted) and resumed_history == history


def test_a_finished_training_is_not_repeated(train):
    """From a checkpoint of the last epoch nothing is trained; weights and history are loaded."""
    finished, history = train("finished", epochs=2)
    seen = []
    loaded, loaded_history = train("finished", 1, epochs=2, on_epoch=seen.append)
    assert seen == [] and same(loaded, finished) and loaded_history == history


def test_randomness_depends_on_the_seed_only(train):
    """Global random states have no effect and stay unchanged; another seed gives other weights."""
    first, _ = train("a", epochs=1)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second, _ = train("b", epochs=1)
    assert same(first, second) and torch.equal(torch.get_rng_state(), before)
    other, _ = train("c", epochs=1, seed=6)
    assert not same(first, other)


def test_the_trainer_learns_an_easy_dataset(train, easy_set, tiny_space):
    """After eight epochs the loss is below half of chance, and top-1 of the smallest and the largest is above 90 %."""
    recipe = RECIPE.model_copy(update={"dropout": 0.0, "drop_connect": 0.0, "label_smoothing": 0.0})
    supernet, history = train("easy", epochs=8, recipe=recipe)
    assert history[-1].loss_largest < 0.5 * np.log(3) < history[0].loss_largest
    train_batches, held_out = (EvaluationBatches(easy_set, easy_set.indices(part), 36) for part in ("train", "val"))
    score = Scorer(supernet, train_batches, held_out, CPU)
    assert min(score.top1_all([tiny_space.smallest(), tiny_space.largest()])) > 90


def test_history_has_all_epochs(train):
    """Each has the learning rate of its last step (2 and 5 of 6, on the cosine) and the validation results."""
    answers = iter([(10.0, 20.0), (30.0, 40.0)])
    rows = []
    _, history = train("rows", epochs=2, validate=lambda: next(answers), on_epoch=rows.append)
    base = 2.0 * 20 / 256
    assert rows == history
    assert [(r.epoch, r.top1_smallest, r.top1_largest) for r in history] == [(1, 10.0, 20.0), (2, 30.0, 40.0)]
    assert [r.learning_rate for r in history] == pytest.approx([base * 0.5 * (1 + np.cos(np.pi * s / 6)) for s in (2, 5)])


STRATEGIES = pytest.mark.parametrize("kind", [Uniform, None])  # with and without candidates to score


@STRATEGIES
def test_diverged_weights_are_not_saved(train, tiny_space, kind):
    """With a rate of 1e38 training rolls back to epoch 1 each time; the error names the key, and those weights stay."""
    strategy = kind and kind(Unconstrained(tiny_space))
    good, history = train("diverging", epochs=1)
    wild = RECIPE.model_copy(update={"learning_rate": 1e38, "warmup_epochs": 0.0})
    with pytest.raises(FloatingPointError, match=r"weights of epoch 1 are kept\. Lower params\.yaml recipe\.learning_rate"):
        train("diverging", epochs=3, recipe=wild, strategy=strategy)
    loaded, loaded_history = train("diverging", 4, epochs=1)
    assert same(loaded, good) and loaded_history == history


@STRATEGIES
def test_a_step_with_a_nan_changes_nothing(train, tiny_space, kind, capsys):
    """If all three steps of an epoch are skipped the weights stay; each is reported, and later epochs train."""
    strategy = kind and kind(Unconstrained(tiny_space))
    unchanged, _ = train("none", epochs=1, strategy=strategy, poison=lambda epoch, step: True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert same(unchanged, Supernet(tiny_space, 3, RECIPE.zero_init))
    assert capsys.readouterr().out.count("skipped: its losses or gradients are not finite") == 3
    _, history = train("one", strategy=strategy, poison=lambda epoch, step: (epoch, step) == (1, 0))
    assert np.isfinite([[epoch.loss_largest, epoch.loss_sampled, epoch.loss_smallest] for epoch in history]).all()


def poison_first(epochs: int, times: int):
    """Poison the first batches from an epoch on."""
    seen = []

    def poison(epoch: int, step: int) -> bool:
        if epoch >= epochs and len(seen) < times:
            seen.append((epoch, step))
            return True
        return False

    return poison


def test_a_rollback_halves_the_learning_rate(train, capsys):
    """After five skipped steps training continues from epoch 1 with half the rate; a resumed one ends the same."""
    _, plain = train("plain", epochs=4)
    recovered, history = train("recovered", epochs=4, poison=poison_first(1, 5))
    assert "rollback to the weights of epoch 1, with 0.5 of the learning rate" in capsys.readouterr().out
    assert history[0] == plain[0]
    assert [epoch.learning_rate for epoch in history[1:]] == pytest.approx([epoch.learning_rate / 2 for epoch in plain[1:]])
    with pytest.raises(Stopped):
        train("stopped", epochs=4, poison=poison_first(1, 5), on_epoch=stop_in(3))
    resumed, resumed_history = train("stopped", 1, epochs=4)  # without poison, the lower rate stays
    assert same(resumed, recovered) and resumed_history == history


def test_training_stops_after_three_rollbacks(train):
    """The error has the number of skipped steps."""
    with pytest.raises(FloatingPointError, match=r"20 steps skipped.*after 3 rollbacks.*weights of epoch 1"):
        train("bad", epochs=4, poison=lambda epoch, step: epoch > 0)


def test_a_state_dict_restores_a_trainer(easy_set, tiny_space):
    """Weights, momentum, history and recovery counts are those of the saved trainer."""

    def build() -> Trainer:
        batches = TrainingBatches(easy_set, easy_set.indices("train"), RECIPE.batch, RECIPE.augmentation, 0)
        supernet = Supernet(tiny_space, 3, RECIPE.zero_init)
        strategy = Uniform(Unconstrained(tiny_space))
        return Trainer(supernet, batches, strategy, epochs=2, seed=0, place="train", recipe=RECIPE, runtime=RUNTIME, device=CPU)

    saved, restored = build(), build()
    saved.history, saved.recovery = [Epoch(1, 0.1, 1.0, 2.0, 3.0, 4.0, 5.0)], Recovery(skipped=3, in_row=1, rollbacks=1)
    for p in saved.supernet.parameters():
        p.grad = torch.ones_like(p)
    saved.optimizer.step()
    restored.load_state_dict(saved.state_dict())
    assert same(restored.supernet, saved.supernet)
    assert restored.history == saved.history and restored.recovery == saved.recovery
    states = zip(saved.optimizer.state.values(), restored.optimizer.state.values(), strict=True)
    equal = [torch.equal(a["momentum_buffer"], b["momentum_buffer"]) for a, b in states]
    assert len(equal) == len(list(saved.supernet.parameters())) and all(equal)
    assert restored.metrics() == {"top1_smallest": 4.0, "top1_largest": 5.0, "skipped_steps": 3, "rollbacks": 1}
