"""nas.differentiable.hardcore_nas.one_shot: all architectures in one model, one architecture per image."""

import pytest
import torch
from torch import nn

from nas.differentiable.hardcore_nas.one_shot import OneShot, Paths, extract, sort_channels
from nas.spaces import FOLDER, hardcore_nas

SPACE = hardcore_nas.load(FOLDER / "hardcore_nas_glyphs.yaml")
IMAGES = 12


@pytest.fixture
def model() -> OneShot:
    """In eval mode, with random batch norms."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OneShot(SPACE, 5)
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            for tensor in (norm.weight, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (norm.bias, norm.running_mean):
                nn.init.uniform_(tensor, -0.5, 0.5)
    return model.double().eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(IMAGES, 3, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def archs(rng) -> list[hardcore_nas.Arch]:
    return [SPACE.largest(), *(SPACE.random(rng) for _ in range(IMAGES - 1))]


def test_a_batch_of_different_networks_equals_single_images(model, images, archs):
    """Every image through its network extracted from the model, which other code builds from rows."""
    together = model(images, Paths.of(archs, SPACE.blocks))
    for image, arch, logits in zip(images, archs, together):
        torch.testing.assert_close(extract(model, arch)(image[None])[0], logits, rtol=1e-9, atol=1e-9)


def test_summing_all_choices_with_one_hot_weights_is_the_network(model, images, archs):
    """The forward pass of the search, at one-hot weights."""
    paths = Paths.of(archs, SPACE.blocks)
    alpha = nn.functional.one_hot(paths.configurations, 12).double()
    beta = nn.functional.one_hot(paths.depths - 1, SPACE.blocks).double()
    torch.testing.assert_close(model.mixed(images, alpha, beta), model(images, paths), rtol=1e-9, atol=1e-9)


def test_all_choices_have_gradients(model, images, archs):
    """All 12 configurations of a block that runs and all depths; none where a block does not run."""
    paths = Paths.of(archs[1:2], SPACE.blocks)
    alpha = nn.functional.one_hot(paths.configurations, 12).double().requires_grad_()
    beta = nn.functional.one_hot(paths.depths - 1, SPACE.blocks).double().requires_grad_()
    model.mixed(images[:1], alpha, beta).logsumexp(1).sum().backward()
    runs = torch.arange(SPACE.blocks) < paths.depths[0][:, None]
    assert (alpha.grad[0][runs] != 0).all()
    assert (alpha.grad[0][~runs] == 0).all()
    assert (beta.grad != 0).all()


def test_a_convolution_runs_only_on_its_images(model, images, archs):
    """The number of images of every depthwise convolution, counted by hooks, against the paths."""
    seen = {}
    for s, stage in enumerate(model.stages):
        for b, block in enumerate(stage):
            for kernel, conv in block.depthwise.items():
                conv.register_forward_hook(lambda m, args, y, key=(s, b, int(kernel)): seen.__setitem__(key, len(args[0])))
    model(images, Paths.of(archs, SPACE.blocks))
    expected = {}
    for arch in archs:
        for s, stage in enumerate(arch):
            for b, c in enumerate(stage):
                key = (s, b, SPACE.configurations[c].kernel)
                expected[key] = expected.get(key, 0) + 1
    assert seen == expected


def test_in_training_only_active_weights_get_gradients(model, images):
    """With the largest network for every image, the other kernel and the other batch norms have none."""
    model.train()
    model(images, Paths.of([SPACE.largest()] * IMAGES, SPACE.blocks)).sum().backward()
    block = model.stages[0][0]
    assert block.depthwise["5"].weight.grad is not None
    assert block.depthwise["3"].weight.grad is None
    assert {k for k, norm in block.project_bn.items() if norm.weight.grad is not None} == {"4_se"}


def test_sorting_channels_does_not_change_the_largest_network(model, images):
    """For any importance; the most important channel comes first."""
    largest = Paths.of([SPACE.largest()] * IMAGES, SPACE.blocks)
    before = model(images, largest)
    generator = torch.Generator().manual_seed(2)
    importance = {n: torch.rand(p.shape, generator=generator) for n, p in model.named_parameters()}
    weight = model.stages[1][0].expand.weight.clone()
    sort_channels(model, importance)
    torch.testing.assert_close(model(images, largest), before, rtol=1e-9, atol=1e-9)
    best = importance["stages.1.0.expand.weight"].flatten(1).sum(1).argmax()
    assert torch.equal(model.stages[1][0].expand.weight[0], weight[best])


def test_an_extracted_network_is_a_copy(model):
    """Training it does not change the model."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    network = extract(model, SPACE.largest())
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
