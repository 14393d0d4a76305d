"""One sandwich step equals its four losses, computed one by one with plain autograd."""

import copy

import pytest
import torch

from nas.models.layers import Regularisation
from nas.models.supernet import Supernet
from nas.training.losses import KL, AdaptiveAlpha
from nas.training.recipe import Runtime
from nas.training.sandwich import sandwich_step

SMOOTHING = 0.1
RUNTIME = Runtime(device="cpu", threads=1, evaluators=2, workers=0, precision="fp32", channels_last=True)


@pytest.fixture
def supernet(tiny_space) -> Supernet:
    net = Supernet(tiny_space, 4, zero_init=False)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=draws) * (0.3 if p.ndim < 2 else (2 / p[0].numel()) ** 0.5) + (p.ndim < 2))
    return net.double()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, 20, 20, generator=draws, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])


def regularisation() -> Regularisation:
    return Regularisation(0.3, 0.3, torch.arange(6) * 7)


def label(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    target = (1 - SMOOTHING) * torch.eye(4, dtype=torch.float64)[labels] + SMOOTHING / 4
    return -(target * logits.log_softmax(1)).sum(1).mean()


def test_gradients_are_the_sum_of_four_losses(supernet, batch, tiny_space, rng, monkeypatch):
    """Cross-entropy of the regularised largest network, KL to its detached logits for two sampled ones and the smallest."""
    images, labels = batch
    sampled = [tiny_space.random(rng) for _ in range(2)]
    reference = copy.deepcopy(supernet)
    losses = sandwich_step(supernet, images, labels, lambda _: sampled, regularisation(), SMOOTHING, KL(), RUNTIME)

    for module in ("nas.models.layers.part", "nas.models.supernet.part"):  # slices with autograd's own gradient
        monkeypatch.setattr(module, lambda weight, *where: weight[where])
    teacher = reference(images, tiny_space.largest(), regularisation())
    expected = [label(teacher, labels)]
    p = teacher.detach().softmax(1)
    for arch in [*sampled, tiny_space.smallest()]:
        expected.append((p * (p.log() - reference(images, arch).log_softmax(1))).sum(1).mean())
    gradients = torch.autograd.grad(sum(expected), list(reference.parameters()))

    for (name, ours), theirs in zip(supernet.named_parameters(), gradients, strict=True):
        assert torch.allclose(ours.grad, theirs, rtol=1e-4, atol=1e-6 * theirs.abs().max().item() + 1e-9), name
    assert losses.largest.item() == pytest.approx(expected[0].item(), rel=1e-5)
    assert losses.sampled.item() == pytest.approx((expected[1] + expected[2]).item() / 2, rel=1e-4)
    assert losses.smallest.item() == pytest.approx(expected[3].item(), rel=1e-4)


@pytest.mark.parametrize("distil", [KL(temperature=2.0, weight=0.6), AdaptiveAlpha(alpha_min=-1.0, alpha_max=1.0, clip=5.0, weight=0.5)])
def test_the_distillation_loss_applies_to_all_but_the_largest(supernet, batch, tiny_space, rng, distil):
    """Losses of the sampled and the smallest network equal direct calls of the loss."""
    images, labels = batch
    sampled = [tiny_space.random(rng) for _ in range(2)]
    teacher = supernet(images, tiny_space.largest(), regularisation())
    expected = [distil(supernet(images, arch), teacher, labels, SMOOTHING).item() for arch in [*sampled, tiny_space.smallest()]]
    losses = sandwich_step(supernet, images, labels, lambda _: sampled, regularisation(), SMOOTHING, distil, RUNTIME)
    assert losses.sampled.item() == pytest.approx((expected[0] + expected[1]) / 2, rel=1e-6)
    assert losses.smallest.item() == pytest.approx(expected[2], rel=1e-6)
    assert losses.largest.item() == pytest.approx(label(teacher, labels).item(), rel=1e-6)


def test_gradients_of_another_loss_are_summed(supernet, batch, tiny_space, rng):
    """With an adaptive loss the gradients equal plain autograd's."""
    images, labels = batch
    distil, middle = AdaptiveAlpha(alpha_min=-1.0, alpha_max=1.0, clip=5.0, weight=0.5), tiny_space.random(rng)
    reference = copy.deepcopy(supernet)
    sandwich_step(supernet, images, labels, lambda _: [middle], regularisation(), SMOOTHING, distil, RUNTIME)

    teacher = reference(images, tiny_space.largest(), regularisation())
    others = sum(distil(reference(images, arch), teacher.detach(), labels, SMOOTHING) for arch in (middle, tiny_space.smallest()))
    (label(teacher, labels) + others).backward()
    for (name, ours), theirs in zip(supernet.named_parameters(), reference.parameters(), strict=True):
        if theirs.grad is None:  # a shortcut of none of the three networks
            assert ours.grad is None, name
        else:
            assert torch.allclose(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12), name


def test_a_step_adds_to_existing_gradients(supernet, batch, tiny_space, rng):
    """Two steps without zeroing give twice the gradients of one."""
    sampled = [tiny_space.random(rng) for _ in range(2)]
    once = copy.deepcopy(supernet)
    sandwich_step(once, *batch, lambda _: sampled, regularisation(), SMOOTHING, KL(), RUNTIME)
    for _ in range(2):
        sandwich_step(supernet, *batch, lambda _: sampled, regularisation(), SMOOTHING, KL(), RUNTIME)
    assert all(torch.allclose(b.grad, 2 * a.grad, rtol=1e-9) for a, b in zip(once.parameters(), supernet.parameters()))


def test_the_score_is_minus_the_loss_on_this_batch(supernet, batch, tiny_space, rng):
    """It is label-smoothed and without regularisation, one per architecture; scoring leaves no gradient."""
    images, labels = batch
    archs = [tiny_space.random(rng) for _ in range(3)]
    scores, gradients = [], []

    def choose(score):
        scores.extend(score(archs))
        gradients.extend(p.grad for p in supernet.parameters())
        return archs[:1]

    expected = [-label(supernet(images, arch), labels).item() for arch in archs]
    sandwich_step(supernet, images, labels, choose, regularisation(), SMOOTHING, KL(), RUNTIME)
    assert scores == pytest.approx(expected, rel=1e-5)
    assert gradients and all(g is None for g in gradients)


def test_regularisation_applies_to_the_largest_network_only(supernet, batch, tiny_space, rng):
    """Each network runs once: the largest with regularisation, the others without."""
    calls, run = [], Supernet.forward
    regularise = regularisation()

    def forward(self, images, arch, regularise=None):
        calls.append((arch, regularise))
        return run(self, images, arch, regularise)

    spied = type("Spied", (Supernet,), {"forward": forward})
    supernet.__class__ = spied
    middle = tiny_space.random(rng)
    sandwich_step(supernet, *batch, lambda _: [middle], regularise, SMOOTHING, KL(), RUNTIME)
    assert calls == [(tiny_space.largest(), regularise), (middle, None), (tiny_space.smallest(), None)]
