"""Evaluation: batch norm calibrated on training images, top-1 on held-out images."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from nas.data.loader import EvaluationBatches
from nas.evaluation.evaluate import Scorer, calibrate, top1, whole_batches
from nas.models.extract import extract
from nas.models.supernet import Supernet
from nas.spaces.mbconv import SearchSpace

CPU = torch.device("cpu")


def batches(n: int = 4, seed: int = 0) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [3 + 2 * torch.randn(8, 3, 6, 6, generator=draws) for _ in range(n)]


@pytest.fixture(scope="module")
def supernet(tiny_space: SearchSpace) -> Supernet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Supernet(tiny_space, 3, zero_init=False)


def scorer(supernet: Supernet, easy_set, keep_mb: int = 2048, evaluators: int = 1) -> Scorer:
    calibration = EvaluationBatches(easy_set, easy_set.indices("train"), 20, keep_mb=keep_mb)
    held_out = EvaluationBatches(easy_set, easy_set.indices("val"), 16, keep_mb=keep_mb)
    return Scorer(supernet, calibration, held_out, CPU, evaluators=evaluators)


def test_statistics_are_the_average_over_batches():
    """Mean of the batches' means, mean of their unbiased variances, by numpy; earlier statistics are forgotten."""
    norm = nn.BatchNorm2d(3)
    network = nn.Sequential(norm)
    calibrate(network, batches(2, seed=9))
    calibrate(network, batches())
    values = [b.permute(1, 0, 2, 3).reshape(3, -1).double().numpy() for b in batches()]
    assert np.allclose(norm.running_mean, np.mean([v.mean(1) for v in values], axis=0), rtol=1e-5)
    assert np.allclose(norm.running_var, np.mean([v.var(1, ddof=1) for v in values], axis=0), rtol=1e-5)
    assert not network.training


def test_later_layers_are_calibrated_on_batch_statistics():
    """The second batch norm is calibrated on the first one's output normalised by the batch, not by running statistics."""
    first, second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    calibrate(nn.Sequential(first, second), batches())
    assert torch.allclose(second.running_mean, torch.zeros(3), atol=1e-5)
    assert torch.allclose(second.running_var, torch.ones(3), rtol=0.01)


def test_dropout_is_off_while_calibrating():
    """Behind a dropout of 90 % the statistics are those of the whole features; weights stay as they were."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.9), nn.BatchNorm2d(4))
    weights = copy.deepcopy(dict(network.named_parameters()))
    calibrate(network, batches(1))
    with torch.no_grad():
        expected = network[0](batches(1)[0]).mean((0, 2, 3))
    assert torch.allclose(network[2].running_mean, expected, atol=1e-5)
    assert all(torch.equal(p, weights[name]) for name, p in network.named_parameters())


def test_calibration_decides_the_top1():
    """Images of brightness 100 -+ 1: with initial statistics all are assigned to the brighter class, calibrated all are correct."""
    network = nn.Sequential(nn.BatchNorm2d(1, affine=False), nn.Conv2d(1, 2, 1, bias=False), nn.Flatten()).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1))
    labels = torch.arange(20) % 2
    images = (99 + 2 * labels).float().view(20, 1, 1, 1)
    assert top1(network, [(images, labels)]) == 50
    calibrate(network, [images])
    assert top1(network, [(images, labels)]) == 100


def test_calibration_without_batches_raises():
    """The message names the keys that decide how many there are."""
    with pytest.raises(ValueError, match=r"no images.*evaluation\.calibration_batches"):
        calibrate(nn.Sequential(nn.BatchNorm2d(3)), [])


def test_top1_by_hand():
    """Two batches of unequal size, 3 of 5 correct: 60 %, not the mean of 2/3 and 1/2."""
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [5.0, 4.0], [0.0, 9.0]])
    labels = torch.tensor([1, 0, 0, 1, 1])
    assert top1(nn.Identity(), [(logits[:3], labels[:3]), (logits[3:], labels[3:])]) == 60


def test_top1_without_images_raises():
    """No images are an error, not 0 %."""
    with pytest.raises(ValueError, match="no images to evaluate on"):
        top1(nn.Identity(), [])


def test_a_score_equals_its_steps(supernet, easy_set, tiny_space, rng):
    """Extract, calibrate on unresized training images, evaluate on unresized held-out ones: the same top-1 at both resolutions."""
    score = scorer(supernet, easy_set)
    last = {"memory_format": torch.channels_last}
    archs = [tiny_space.smallest(), tiny_space.largest(), *(tiny_space.random(rng) for _ in range(4))]
    assert {a.resolution for a in archs} == {16, 20}
    for arch in archs:
        network = extract(supernet, arch).to(**last)
        calibrate(network, (b.images.to(**last) for b in EvaluationBatches(easy_set, easy_set.indices("train"), 20)))
        held_out = EvaluationBatches(easy_set, easy_set.indices("val"), 16)
        with torch.no_grad():
            answers = [(network(b.images.to(**last)).argmax(1) == b.labels).float() for b in held_out]
        assert score.top1(arch) == pytest.approx(100 * torch.cat(answers).mean().item())


def test_a_score_is_reproducible(supernet, easy_set, tiny_space, rng):
    """Repeated, after others, streamed instead of cached, or by two threads the score is equal; the supernet is unchanged."""
    before = copy.deepcopy(supernet.state_dict())
    archs = [tiny_space.random(rng) for _ in range(6)]
    score = scorer(supernet, easy_set)
    first = [score.top1(arch) for arch in archs]
    assert [score.top1(arch) for arch in reversed(archs)] == first[::-1]
    assert list(score.top1_all(archs)) == first
    assert list(scorer(supernet, easy_set, keep_mb=0).top1_all(archs)) == first
    assert list(scorer(supernet, easy_set, evaluators=2).top1_all(archs)) == first
    assert all(torch.equal(v, before[k]) for k, v in supernet.state_dict().items())


def test_a_calibrated_network_has_its_own_statistics(supernet, easy_set, tiny_space):
    """`network` returns a network in eval mode that scores as its architecture does."""
    score, arch = scorer(supernet, easy_set), tiny_space.largest()
    network = score.network(arch)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(m.training for m in network.modules())
    assert all(norm.num_batches_tracked == 3 for norm in norms)  # 60 training images by 20
    assert score.top1_of(network) == score.top1(arch)


def test_calibration_batches_are_whole():
    """Of 300 images, 256 fill batches of 128; 100 images make one smaller batch."""
    assert [whole_batches(n, 128) for n in (300, 256, 128, 100)] == [256, 256, 128, 100]
