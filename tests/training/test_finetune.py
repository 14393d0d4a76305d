"""Fine-tuning: a new classifier, resumed training, and the error of a diverging one."""

import copy
import io

import pytest
import torch

from nas.data.augmentation import Augmentation
from nas.data.loader import EvaluationBatches, TrainingBatches
from nas.evaluation.evaluate import calibrate, top1
from nas.models.extract import Network, extract
from nas.models.supernet import Supernet
from nas.training.finetune import FineTuningConfig, Hyperparameters, fine_tune, replace_classifier
from nas.training.recipe import Runtime

CPU = torch.device("cpu")
RUNTIME = Runtime(device="cpu", threads=1, evaluators=1, workers=0, precision="fp32", channels_last=True)
CONFIG = FineTuningConfig(epochs=3, batch=20, momentum=0.9, label_smoothing=0.1, dropout=0.5, warmup_epochs=0, clip_value=1.0)


class Stopped(Exception):
    """Stands for a killed process."""


@pytest.fixture
def network(tiny_space) -> Network:
    """A network of 7 classes with random weights and a new classifier for 3."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = extract(Supernet(tiny_space, 7, zero_init=False), tiny_space.largest())
    replace_classifier(network, 3, seed=0)
    return network


@pytest.fixture
def batches(easy_set) -> TrainingBatches:
    return TrainingBatches(
        easy_set, easy_set.indices("train"), CONFIG.batch, Augmentation(crop_scale=(0.8, 1.0), flip=True, policy="none"), seed=0
    )


def tune(network, batches, state=None, on_epoch=lambda state: None, cfg=CONFIG, rate=0.1, seed=0) -> dict[str, torch.Tensor]:
    fine_tune(network, batches, Hyperparameters(rate, 1e-4), cfg, seed, RUNTIME, CPU, state, on_epoch)
    return network.state_dict()


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def test_the_seed_determines_the_new_classifier(network):
    """It has the new classes, zero bias, and the same weights for the same seed; other layers stay unchanged."""
    first, second, other = (copy.deepcopy(network) for _ in range(3))
    state = torch.get_rng_state()
    replace_classifier(first, 10, seed=1)
    torch.manual_seed(5)
    replace_classifier(second, 10, seed=1)
    replace_classifier(other, 10, seed=2)
    torch.set_rng_state(state)
    assert first.classifier.weight.shape == (10, 48) and not first.classifier.bias.any()
    assert same(first.state_dict(), second.state_dict())
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert torch.equal(first.stem.weight, network.stem.weight)
    assert first.classifier.weight.std().item() == pytest.approx(0.01, rel=0.15)  # 480 draws: standard error 3 %


def test_a_new_classifier_leaves_the_global_state_unchanged(network):
    """torch's global generator has the same state afterwards."""
    before = torch.get_rng_state()
    replace_classifier(network, 4, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_resumed_fine_tuning_ends_with_the_same_weights(network, batches):
    """Stopped after epoch 1, saved and resumed in a network with other weights, it ends with the same bits."""
    uninterrupted, other = copy.deepcopy(network), copy.deepcopy(network)
    saved = io.BytesIO()

    def stop(state: dict) -> None:
        torch.save(state, saved)
        raise Stopped

    with pytest.raises(Stopped):
        tune(network, batches, on_epoch=stop)
    saved.seek(0)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    epochs = []
    resumed = tune(other, batches, torch.load(saved, weights_only=True), lambda state: epochs.append(state["epoch"]))
    assert epochs == [2, 3]
    assert same(resumed, tune(uninterrupted, batches))


def test_dropout_is_counter_based(network, batches):
    """Global random states have no effect and stay unchanged; another seed and no dropout give other weights."""
    copies = [copy.deepcopy(network) for _ in range(3)]
    one = CONFIG.model_copy(update={"epochs": 1})
    first = tune(network, batches, cfg=one)
    before = torch.get_rng_state()
    torch.manual_seed(77)
    state = torch.get_rng_state()
    assert same(tune(copies[0], batches, cfg=one), first)
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(before)
    assert not same(tune(copies[1], batches, cfg=one, seed=1), first)
    assert not same(tune(copies[2], batches, cfg=one.model_copy(update={"dropout": 0.0})), first)


def test_fine_tuning_learns_an_easy_dataset(network, batches, easy_set):
    """After six epochs top-1 on held-out images of three colours is above 90 %."""
    tune(network, batches, cfg=CONFIG.model_copy(update={"epochs": 6, "dropout": 0.1}), rate=0.2)
    calibrate(network, (b.images for b in EvaluationBatches(easy_set, easy_set.indices("train"), 60)))
    held_out = EvaluationBatches(easy_set, easy_set.indices("val"), 36)
    assert top1(network, ((b.images, b.labels) for b in held_out)) > 90


def test_a_diverging_loss_names_the_key(network, batches):
    """The message has the learning rate and its key; the state of the failed epoch is not passed on."""
    states = []
    with pytest.raises(FloatingPointError, match=r"learning rate 1e\+38 diverged in epoch 1; lower params\.yaml: transfer\.learning_rates"):
        tune(network, batches, on_epoch=states.append, rate=1e38)
    assert states == []
