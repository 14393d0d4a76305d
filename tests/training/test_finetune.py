"""Fine-tuning: a new classifier, training that can be stopped, and what is said when it diverges."""

import copy
import io

import pytest
import torch

from nas.data.loader import Augmentation, EvaluationBatches, TrainingBatches
from nas.evaluation.evaluate import calibrate, top1
from nas.models.extract import Network, extract
from nas.models.supernet import Supernet
from nas.training.finetune import FineTuning, Try, fine_tune, new_classifier
from nas.training.recipe import Runtime

CPU = torch.device("cpu")
RUNTIME = Runtime(device="cpu", threads=1, evaluators=1, workers=0, precision="fp32", channels_last=True)
HOW = FineTuning(epochs=3, batch=20, momentum=0.9, label_smoothing=0.1, dropout=0.5, warmup_epochs=0, clip_value=1.0)


class Stopped(Exception):
    """Stands for a kill."""


@pytest.fixture
def network(tiny_space) -> Network:
    """A network of 7 classes with random weights, and a new classifier for 3."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = extract(Supernet(tiny_space, 7, zero_init=False), tiny_space.largest())
    new_classifier(network, 3, seed=0)
    return network


@pytest.fixture
def batches(easy_set) -> TrainingBatches:
    return TrainingBatches(
        easy_set, easy_set.indices("train"), HOW.batch, Augmentation(crop_scale=(0.8, 1.0), flip=True, policy="none"), seed=0
    )


def tune(network, batches, state=None, on_epoch=lambda state: None, how=HOW, rate=0.1, seed=0) -> dict[str, torch.Tensor]:
    fine_tune(network, batches, Try(rate, 1e-4), how, seed, RUNTIME, CPU, state, on_epoch)
    return network.state_dict()


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def test_a_new_classifier_belongs_to_its_seed(network):
    """It has the new classes, no bias yet, and the same weights for the same seed; other layers and the global state are untouched."""
    first, second, other = (copy.deepcopy(network) for _ in range(3))
    state = torch.get_rng_state()
    new_classifier(first, 10, seed=1)
    torch.manual_seed(5)
    new_classifier(second, 10, seed=1)
    new_classifier(other, 10, seed=2)
    torch.set_rng_state(state)
    assert first.classifier.weight.shape == (10, 48) and not first.classifier.bias.any()
    assert same(first.state_dict(), second.state_dict())
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert torch.equal(first.stem.weight, network.stem.weight)
    assert first.classifier.weight.std().item() == pytest.approx(0.01, rel=0.15)  # 480 draws: 3 % a deviation


def test_a_new_classifier_leaves_the_global_state(network):
    """torch's own generator draws on as if nothing had been."""
    before = torch.get_rng_state()
    new_classifier(network, 4, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_stopped_fine_tuning_ends_with_the_same_weights(network, batches):
    """Stopped after the first epoch, its state through a file, gone on with in a network of other weights: not a bit differs."""
    undisturbed, other = copy.deepcopy(network), copy.deepcopy(network)
    kept = io.BytesIO()

    def stop(state: dict) -> None:
        torch.save(state, kept)
        raise Stopped

    with pytest.raises(Stopped):
        tune(network, batches, on_epoch=stop)
    kept.seek(0)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    epochs = []
    resumed = tune(other, batches, torch.load(kept, weights_only=True), lambda state: epochs.append(state["epoch"]))
    assert epochs == [2, 3]
    assert same(resumed, tune(undisturbed, batches))


def test_dropout_is_counted(network, batches):
    """Global random states do not matter and stay as they were; another seed drops otherwise, and so does no dropout."""
    copies = [copy.deepcopy(network) for _ in range(3)]
    one = HOW.model_copy(update={"epochs": 1})
    first = tune(network, batches, how=one)
    before = torch.get_rng_state()
    torch.manual_seed(77)
    state = torch.get_rng_state()
    assert same(tune(copies[0], batches, how=one), first)
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(before)
    assert not same(tune(copies[1], batches, how=one, seed=1), first)
    assert not same(tune(copies[2], batches, how=one.model_copy(update={"dropout": 0.0})), first)


def test_it_learns_an_easy_set(network, batches, easy_set):
    """Six epochs: held-out images of three colours are named rightly, nearly all."""
    tune(network, batches, how=HOW.model_copy(update={"epochs": 6, "dropout": 0.1}), rate=0.2)
    calibrate(network, (b.images for b in EvaluationBatches(easy_set, easy_set.indices("train"), 60)))
    held_out = EvaluationBatches(easy_set, easy_set.indices("val"), 36)
    assert top1(network, ((b.images, b.labels) for b in held_out)) > 90


def test_diverging_names_the_key(network, batches):
    """The learning rate tried and the key that lists it; the state of the bad epoch is not handed on."""
    states = []
    with pytest.raises(FloatingPointError, match=r"learning rate 1e\+38 diverged in epoch 1; lower params\.yaml: transfer\.learning_rates"):
        tune(network, batches, on_epoch=states.append, rate=1e38)
    assert states == []
