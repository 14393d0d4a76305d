"""nas.differentiable.tf_nas.supernet: paths against extracted networks, active channels, their optimiser."""

import numpy as np
import pytest
import torch

from nas.differentiable.tf_nas.architecture import ArchitectureParameters
from nas.differentiable.tf_nas.supernet import ChannelSGD, Supernet, most_important
from nas.spaces.tf_nas import Arch
from tests.differentiable.tf_nas.tiny import TINY, random_arch


@pytest.fixture
def supernet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(TINY, 5)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def one_hot_sinks(arch: Arch) -> list[torch.Tensor]:
    return [torch.eye(stage.depth)[depth - 1] for stage, depth in zip(TINY.stages, arch.depths)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_one_hot_sink_is_the_plain_network_of_that_depth(supernet, images, memory_format):
    """For random operations, depths and widths, bit for bit the extracted network on the same batch."""
    rng = np.random.default_rng(0)
    images, supernet = images.to(memory_format=memory_format), supernet.to(memory_format=memory_format)
    for _ in range(10):
        arch, widths = random_arch(TINY, rng)
        channels = supernet.select_channels(widths)
        plain = supernet.extract(arch, channels).train().to(memory_format=memory_format)
        assert plain.plan == TINY.plan(arch)
        assert torch.equal(supernet.path(images, arch.operations, one_hot_sinks(arch), channels), plain(images))


def test_the_derived_network_is_the_strongest_path(supernet, images):
    """The network of the largest alpha and beta is the supernet's path along them."""
    rng, parameters = np.random.default_rng(3), ArchitectureParameters(TINY)
    with torch.no_grad():
        for p in parameters.parameters():
            p.copy_(torch.from_numpy(rng.normal(size=p.shape)))
    widths = random_arch(TINY, rng)[1]
    arch, channels = parameters.derive(widths), supernet.select_channels(widths)
    one_hot = torch.eye(3)[parameters.alpha.argmax(1)]
    sinks = [torch.eye(len(beta))[beta.argmax()] for beta in parameters.beta]
    plain = supernet.extract(arch, channels)(images)
    assert torch.equal(supernet.path(images, arch.operations, sinks, channels), plain)
    torch.testing.assert_close(supernet.mixture(images, one_hot, sinks, channels), plain)


def test_sinks_weigh_the_depths(supernet, images):
    """The output of the last stage is the weighted sum of its layers' outputs."""
    arch, widths = random_arch(TINY, np.random.default_rng(1))
    channels, seen = supernet.select_channels(widths), []
    supernet.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    last = torch.tensor([0.2, 0.3, 0.5])
    first = torch.tensor([1.0, 0.0])
    supernet.path(images, arch.operations, [first, last], channels)
    for depth in range(3):
        supernet.path(images, arch.operations, [first, torch.eye(3)[depth]], channels)
    torch.testing.assert_close(seen[0], sum(w * x for w, x in zip(last, seen[1:])))


def test_most_important_channels_by_hand():
    """Largest sums of absolute weights, in order; of equal ones the first."""
    weight = torch.tensor([1.0, -3.0, 2.0, 3.0, 1.0]).reshape(5, 1, 1, 1)
    assert most_important(weight, 3).tolist() == [1, 2, 3]
    assert most_important(weight, 4).tolist() == [0, 1, 2, 3]


def training_step(supernet, optimizer, images, arch, channels):
    optimizer.zero_grad(set_to_none=True)
    labels = torch.arange(len(images)) % 5
    torch.nn.functional.cross_entropy(supernet.path(images, arch.operations, one_hot_sinks(arch), channels), labels).backward()
    optimizer.step(supernet.hidden_parameters(channels))


def test_inactive_channels_do_not_change(supernet, images):
    """Steps at a smaller width leave weights and momentum of inactive channels bit for bit the same."""
    low, high = TINY.bounds()
    arch = Arch((2,) * 5, (2, 3), tuple(high[:, 2].tolist()))
    optimizer = ChannelSGD(supernet.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    wide = supernet.select_channels(high)
    training_step(supernet, optimizer, images, arch, wide)
    narrow = supernet.select_channels(low)
    before = {
        p: (p.detach().clone(), optimizer.state[p]["momentum"].clone()) for p in supernet.hidden_parameters(wide) if p.grad is not None
    }
    for _ in range(3):
        training_step(supernet, optimizer, images, arch, narrow)
    for p, (axis, channels) in supernet.hidden_parameters(narrow).items():
        if p not in before:
            continue
        dropped = torch.tensor(sorted(set(range(p.shape[axis])) - set(channels.tolist())))
        for now, then in zip((p.detach(), optimizer.state[p]["momentum"]), before[p]):
            assert torch.equal(now.index_select(axis, dropped), then.index_select(axis, dropped))
            assert not torch.equal(now.index_select(axis, channels), then.index_select(axis, channels))


def test_unchanged_widths_keep_their_channels(supernet):
    """Only an operation whose width changed selects again, although all weights changed."""
    widths = TINY.start_widths()
    channels = supernet.select_channels(widths)
    with torch.no_grad():
        for p in supernet.parameters():
            p.copy_(torch.randn_like(p))
    changed = widths.copy()
    changed[0, 1] -= 1
    after = supernet.select_channels(changed, channels, widths)
    for i, o in np.ndindex(widths.shape):
        expected = most_important(supernet.layers[0][1].depthwise, widths[0, 1] - 1) if (i, o) == (0, 1) else channels[i][o]
        assert torch.equal(after[i][o], expected)


def test_with_all_channels_it_is_torchs_sgd():
    """Parameters without hidden channels, and those with all channels active, move as with `torch.optim.SGD`."""
    torch.manual_seed(0)
    mine = [torch.nn.Parameter(torch.randn(4, 3)) for _ in range(2)]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in mine]
    optimizer, reference = ChannelSGD(mine, 0.1, 0.9, 0.01), torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(5):
        for p, q in zip(mine, theirs):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.step({mine[1]: (0, torch.arange(4))})
        reference.step()
    torch.testing.assert_close(mine, theirs)
