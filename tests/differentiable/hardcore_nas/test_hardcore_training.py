"""nas.differentiable.hardcore_nas.training and .gradients: weights, and what the search goes by."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nas.cost.latency_hardcore_nas import Latency
from nas.differentiable.hardcore_nas import training
from nas.differentiable.hardcore_nas.gradients import DrawnGradients, draw
from nas.differentiable.hardcore_nas.one_shot import OneShot, Paths, extract
from nas.differentiable.hardcore_nas.relaxed import Point, one_hot
from nas.runtime import seeding
from nas.spaces import FOLDER, hardcore_nas
from nas.training.recipe import Runtime

SPACE = hardcore_nas.load(FOLDER / "hardcore_nas_glyphs.yaml")
RUNTIME = Runtime(device="cpu", threads=1, evaluators=1, workers=0, precision="fp32", channels_last=False)
HOW = training.Optimisation(
    epochs=3, learning_rate=0.05, warmup_epochs=1, momentum=0.9, weight_decay=1e-5, label_smoothing=0.0, clip_value=1.0
)
CPU = torch.device("cpu")


class Batches:
    """Two batches of 12 images, always the same: the class is the brightest colour."""

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


def uniform() -> Point:
    shape = len(SPACE.stages), SPACE.blocks, len(SPACE.configurations)
    return Point(np.full(shape, 1 / shape[2]), np.full(shape[:2], 1 / shape[1]))


def test_choices_are_drawn_by_their_probability():
    """Shares over 20,000 draws; what has probability 0 is never drawn."""
    point = Point(np.array([[[0.0, 0.25, 0.75, 0.0]]]), np.array([[1.0]]))
    alpha, beta = draw(point, 20_000, np.random.default_rng(0))
    assert alpha.mean(0)[0, 0].numpy() == pytest.approx([0, 0.25, 0.75, 0], abs=0.01)
    assert (alpha[:, 0, 0, [0, 3]] == 0).all()
    assert (beta == 1).all()


def test_the_gradient_is_that_of_the_loss_by_the_weights_of_the_choices(model):
    """Against central differences at what was drawn, in double precision."""
    model.double()
    batch = Batches().parts[0]
    images, labels = batch.images.double(), batch.labels
    found = DrawnGradients(model, lambda step: (images, labels), lambda step: np.random.default_rng([5, step]))(uniform(), 3)
    alpha, beta = (z.double() for z in draw(uniform(), len(images), np.random.default_rng([5, 3])))

    def loss(alpha: torch.Tensor, beta: torch.Tensor) -> float:
        with torch.no_grad():
            return float(F.cross_entropy(model.mixed(images, alpha, beta), labels))

    h = 1e-7  # small: activations have kinks
    for place in [(0, 0, 3), (1, 0, 11), (2, 1, 0)]:
        more = torch.zeros_like(alpha)
        more[(slice(None), *place)] = h
        assert found.alpha[place] == pytest.approx((loss(alpha + more, beta) - loss(alpha - more, beta)) / (2 * h), rel=1e-3, abs=1e-7)
    for place in [(0, 2), (2, 0)]:
        more = torch.zeros_like(beta)
        more[(slice(None), *place)] = h
        assert found.beta[place] == pytest.approx((loss(alpha, beta + more) - loss(alpha, beta - more)) / (2 * h), rel=1e-3, abs=1e-7)


def test_the_loss_of_a_step_is_that_of_the_networks_that_were_drawn(model):
    """Against the cross-entropy of each image's own network, and with the gradient that is handed out without it."""
    batch = Batches().parts[0]
    gradients = DrawnGradients(model, lambda step: (batch.images, batch.labels), np.random.default_rng)
    found, loss = gradients.with_loss(uniform(), 3)
    alpha, beta = draw(uniform(), len(batch.images), np.random.default_rng(3))
    paths = Paths(beta.argmax(-1) + 1, alpha.argmax(-1))
    assert loss == pytest.approx(F.cross_entropy(model(batch.images, paths), batch.labels).item(), rel=1e-5)
    assert np.array_equal(found.alpha, gradients(uniform(), 3).alpha)


def test_a_certain_point_has_no_gradient_for_blocks_that_do_not_run(model):
    """Their weights make no difference."""
    batch = Batches().parts[0]
    latency = Latency(0.0, np.ones(uniform().alpha.shape), SPACE.offered)
    shallow = one_hot(latency, hardcore_nas.Arch(((3,), (4,), (5,))))
    found = DrawnGradients(model, lambda step: (batch.images, batch.labels), np.random.default_rng)(shallow, 0)
    assert (found.alpha[:, 0] != 0).all()
    assert (found.alpha[:, 1:] == 0).all()


def test_the_search_leaves_the_weights_as_they_are(model):
    """Batch norms' statistics too."""
    before = copy.deepcopy(model.state_dict())
    batch = Batches().parts[0]
    DrawnGradients(model, lambda step: (batch.images, batch.labels), np.random.default_rng)(uniform(), 0)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_training_the_heaviest_network_learns_it(model):
    """An easy set of three colours: the loss falls."""
    losses = []
    training.fit(model, training.largest_loss(model, 0.0), Batches(), HOW, "largest", RUNTIME, CPU, None, lambda s, v: losses.append(v))
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_a_stopped_training_ends_in_the_same_weights(model):
    """Stopped after an epoch and gone on with from its state."""
    other, states = copy.deepcopy(model), []

    def loss(of: OneShot) -> training.Loss:
        return training.multi_path_loss(of, copy.deepcopy(model).eval(), 0.1, seed=7)

    whole = loss(model)
    training.fit(model, whole, Batches(), HOW, "all", RUNTIME, CPU, None, lambda s, v: states.append(copy.deepcopy(s)))
    teacher_free = copy.deepcopy(other)
    again = training.multi_path_loss(teacher_free, copy.deepcopy(other).eval(), 0.1, seed=7)
    training.fit(teacher_free, again, Batches(), HOW, "all", RUNTIME, CPU, states[0], lambda s, v: None)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in teacher_free.state_dict().items())


def test_the_parts_of_the_loss_add_up_by_hand(model):
    """Labels, features over 50 and the teacher's answers, one after the other."""
    model.eval()
    teacher = copy.deepcopy(model)
    batch = Batches().parts[0]
    found = training.multi_path_loss(model, teacher, 0.1, seed=3)(batch.images, batch.labels, 4)
    drawn = seeding.generator(3, "paths", 4)
    paths = Paths.of([SPACE.random(drawn) for _ in batch.images], SPACE.blocks)
    mine = model.features(batch.images, paths)
    theirs = teacher.features(batch.images, training.largest(teacher, len(batch.images)))
    q, p = model.classify(mine[-1]).log_softmax(1), teacher.classify(theirs[-1]).softmax(1)
    labels = -(0.9 * q[torch.arange(len(q)), batch.labels] + 0.1 * q.mean(1)).mean()
    features = sum(((a - b) ** 2).mean() for a, b in zip(mine, theirs)) / 50
    assert found.item() == pytest.approx((labels + features + (p * (p.log() - q)).sum(1).mean()).item(), rel=1e-5)


def test_fine_tuning_takes_the_answers_twice(model):
    """With the teacher as student the answers' part is 0; else it is twice the divergence."""
    model.eval()
    teacher, student = extract(model, SPACE.largest()), extract(model, hardcore_nas.Arch(((0,), (5, 2), (1,))))
    batch = Batches().parts[0]
    labels = F.cross_entropy(student(batch.images), batch.labels)
    divergence = F.kl_div(student(batch.images).log_softmax(1), teacher(batch.images).softmax(1), reduction="batchmean")
    found = training.tuning_loss(student, teacher, 0.0)(batch.images, batch.labels, 0)
    assert found.item() == pytest.approx((labels + 2 * divergence).item(), rel=1e-4)
    alone = training.tuning_loss(teacher, teacher, 0.0)(batch.images, batch.labels, 0)
    assert alone.item() == pytest.approx(F.cross_entropy(teacher(batch.images), batch.labels).item(), rel=1e-4)


def test_importance_is_weight_times_gradient(model):
    """Against one backward pass; what the largest network does not use has none, and nothing is changed."""
    batch = Batches().parts[0]
    loss = training.largest_loss(model, 0.0)
    found = training.importance(model, loss, [(batch.images, batch.labels)])
    loss(batch.images, batch.labels, 0).backward()
    weight = model.stages[0][0].expand.weight
    torch.testing.assert_close(found["stages.0.0.expand.weight"], (weight * weight.grad).abs().detach())
    assert "stages.0.0.depthwise.3.weight" not in found
    assert "stages.0.0.depthwise.5.weight" in found


def test_a_loss_that_is_not_finite_stops_training(model):
    """The message names the key."""
    with pytest.raises(FloatingPointError, match=r"tuning: the loss of epoch 1 is not finite; lower its learning_rate"):
        training.fit(
            model, lambda x, y, i: model.classifier.weight.sum() * float("nan"), Batches(), HOW, "tuning", RUNTIME, CPU, None, print
        )
