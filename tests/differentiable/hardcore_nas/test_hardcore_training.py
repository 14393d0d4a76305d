"""nas.differentiable.hardcore_nas.training, and the sampled gradients of the search."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nas.cost.latency_hardcore_nas import ExpectedLatency
from nas.differentiable.hardcore_nas import training
from nas.differentiable.hardcore_nas.frank_wolfe import SampledGradients
from nas.differentiable.hardcore_nas.one_shot import OneShot, Paths, extract
from nas.differentiable.hardcore_nas.relaxed import RelaxedArch, one_hot, sample_one_hot
from nas.runtime import seeding
from nas.spaces import FOLDER, hardcore_nas
from nas.training.recipe import Runtime

SPACE = hardcore_nas.load(FOLDER / "hardcore_nas_glyphs.yaml")
RUNTIME = Runtime(device="cpu", threads=1, evaluators=1, workers=0, precision="fp32", channels_last=False)
CONFIG = training.TrainingConfig(
    epochs=3, learning_rate=0.05, warmup_epochs=1, momentum=0.9, weight_decay=1e-5, label_smoothing=0.0, clip_value=1.0
)
CPU = torch.device("cpu")


class Batches:
    """Two fixed batches of 12 images whose class is the brightest colour."""

    steps = 2

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(24) % 3
        images = torch.randn(24, 3, 24, 24, generator=generator) + 2 * F.one_hot(labels, 3)[:, :, None, None]
        self.parts = [SimpleNamespace(images=images[i::2], labels=labels[i::2]) for i in range(2)]

    def epoch(self, number: int) -> list[SimpleNamespace]:
        return self.parts


@pytest.fixture
def model() -> OneShot:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return OneShot(SPACE, 3)


def uniform() -> RelaxedArch:
    shape = len(SPACE.stages), SPACE.blocks, len(SPACE.configurations)
    return RelaxedArch(np.full(shape, 1 / shape[2]), np.full(shape[:2], 1 / shape[1]))


def test_the_gradient_is_that_of_the_loss_by_the_choices(model):
    """Against central differences at the samples, in float64."""
    model.double()
    batch = Batches().parts[0]
    images, labels = batch.images.double(), batch.labels
    gradient = SampledGradients(model, lambda step: (images, labels), lambda step: np.random.default_rng([5, step]))(uniform(), 3)
    alpha, beta = (torch.from_numpy(z).double() for z in sample_one_hot(uniform(), len(images), np.random.default_rng([5, 3])))

    def loss(alpha: torch.Tensor, beta: torch.Tensor) -> float:
        with torch.no_grad():
            return float(F.cross_entropy(model.mixed(images, alpha, beta), labels))

    h = 1e-7  # small: activations have kinks
    for place in [(0, 0, 3), (1, 0, 11), (2, 1, 0)]:
        offset = torch.zeros_like(alpha)
        offset[(slice(None), *place)] = h
        assert gradient.alpha[place] == pytest.approx(
            (loss(alpha + offset, beta) - loss(alpha - offset, beta)) / (2 * h), rel=1e-3, abs=1e-7
        )
    for place in [(0, 2), (2, 0)]:
        offset = torch.zeros_like(beta)
        offset[(slice(None), *place)] = h
        assert gradient.beta[place] == pytest.approx(
            (loss(alpha, beta + offset) - loss(alpha, beta - offset)) / (2 * h), rel=1e-3, abs=1e-7
        )


def test_the_loss_of_a_step_is_that_of_the_sampled_networks(model):
    """The cross-entropy of one network per image; the gradient is the same as without the loss."""
    batch = Batches().parts[0]
    gradients = SampledGradients(model, lambda step: (batch.images, batch.labels), np.random.default_rng)
    gradient, loss = gradients.with_loss(uniform(), 3)
    alpha, beta = map(torch.from_numpy, sample_one_hot(uniform(), len(batch.images), np.random.default_rng(3)))
    paths = Paths(beta.argmax(-1) + 1, alpha.argmax(-1))
    assert loss == pytest.approx(F.cross_entropy(model(batch.images, paths), batch.labels).item(), rel=1e-5)
    assert np.array_equal(gradient.alpha, gradients(uniform(), 3).alpha)


def test_blocks_that_cannot_run_have_no_gradient(model):
    """Their weights do not affect the loss."""
    batch = Batches().parts[0]
    latency = ExpectedLatency(0.0, np.ones(uniform().alpha.shape), SPACE.offered)
    shallow = one_hot(latency, hardcore_nas.Arch(((3,), (4,), (5,))))
    gradient = SampledGradients(model, lambda step: (batch.images, batch.labels), np.random.default_rng)(shallow, 0)
    assert (gradient.alpha[:, 0] != 0).all()
    assert (gradient.alpha[:, 1:] == 0).all()


def test_gradients_do_not_change_weights(model):
    """Nor the statistics of batch norms."""
    before = copy.deepcopy(model.state_dict())
    batch = Batches().parts[0]
    SampledGradients(model, lambda step: (batch.images, batch.labels), np.random.default_rng)(uniform(), 0)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_training_the_largest_network_lowers_its_loss(model):
    """On an easy dataset of three colours."""
    losses = []
    training.fit(model, training.largest_loss(model, 0.0), Batches(), CONFIG, "largest", RUNTIME, CPU, None, lambda s, v: losses.append(v))
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_a_resumed_training_ends_in_the_same_weights(model):
    """Interrupted after an epoch and resumed from its state."""
    resumed, teacher, states = copy.deepcopy(model), copy.deepcopy(model).eval(), []
    loss = training.multi_path_loss(model, teacher, 0.1, seed=7)
    training.fit(model, loss, Batches(), CONFIG, "all", RUNTIME, CPU, None, lambda s, v: states.append(copy.deepcopy(s)))
    loss = training.multi_path_loss(resumed, teacher, 0.1, seed=7)
    training.fit(resumed, loss, Batches(), CONFIG, "all", RUNTIME, CPU, states[0], lambda s, v: None)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in resumed.state_dict().items())


def test_the_terms_of_the_loss_by_hand(model):
    """Labels, features divided by 50, and the divergence from the teacher."""
    model.eval()
    teacher = copy.deepcopy(model)
    batch = Batches().parts[0]
    loss = training.multi_path_loss(model, teacher, 0.1, seed=3)(batch.images, batch.labels, 4)
    rng = seeding.generator(3, "paths", 4)
    paths = Paths.of([SPACE.random(rng) for _ in batch.images], SPACE.blocks)
    features = model.features(batch.images, paths)
    teacher_features = teacher.features(batch.images, training.largest(teacher, len(batch.images)))
    q, p = model.classify(features[-1]).log_softmax(1), teacher.classify(teacher_features[-1]).softmax(1)
    labels = -(0.9 * q[torch.arange(len(q)), batch.labels] + 0.1 * q.mean(1)).mean()
    distance = sum(((a - b) ** 2).mean() for a, b in zip(features, teacher_features)) / 50
    assert loss.item() == pytest.approx((labels + distance + (p * (p.log() - q)).sum(1).mean()).item(), rel=1e-5)


def test_fine_tuning_counts_the_divergence_twice(model):
    """With the teacher as student the divergence is 0."""
    model.eval()
    teacher, student = extract(model, SPACE.largest()), extract(model, hardcore_nas.Arch(((0,), (5, 2), (1,))))
    batch = Batches().parts[0]
    labels = F.cross_entropy(student(batch.images), batch.labels)
    divergence = F.kl_div(student(batch.images).log_softmax(1), teacher(batch.images).softmax(1), reduction="batchmean")
    loss = training.tuning_loss(student, teacher, 0.0)(batch.images, batch.labels, 0)
    assert loss.item() == pytest.approx((labels + 2 * divergence).item(), rel=1e-4)
    without = training.tuning_loss(teacher, teacher, 0.0)(batch.images, batch.labels, 0)
    assert without.item() == pytest.approx(F.cross_entropy(teacher(batch.images), batch.labels).item(), rel=1e-4)


def test_importance_is_weight_times_gradient(model):
    """Against one backward pass; weights that the largest network does not use have none."""
    batch = Batches().parts[0]
    loss = training.largest_loss(model, 0.0)
    scores = training.importance(model, loss, [(batch.images, batch.labels)])
    loss(batch.images, batch.labels, 0).backward()
    weight = model.stages[0][0].expand.weight
    torch.testing.assert_close(scores["stages.0.0.expand.weight"], (weight * weight.grad).abs().detach())
    assert "stages.0.0.depthwise.3.weight" not in scores
    assert "stages.0.0.depthwise.5.weight" in scores


def test_a_non_finite_loss_stops_training(model):
    """The message has the key to change."""
    with pytest.raises(FloatingPointError, match=r"tuning: the loss of epoch 1 is NaN or infinite; lower its learning_rate"):
        training.fit(
            model, lambda x, y, i: model.classifier.weight.sum() * float("nan"), Batches(), CONFIG, "tuning", RUNTIME, CPU, None, print
        )
