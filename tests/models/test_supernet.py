"""The supernet: a call computes what a plain network with the same weights computes, and changes no state."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

from nas.cost import flops
from nas.evaluation.evaluate import calibrate
from nas.models import layers
from nas.models.extract import Network, extract
from nas.models.layers import Regularisation, counted_uniform
from nas.models.supernet import Supernet
from nas.spaces import FOLDER
from nas.spaces.mbconv import Arch, SearchSpace, StageSpace, load

GLYPHS = load(FOLDER / "glyphs.yaml")
PAPER = load(FOLDER / "attentive_nas.yaml")
FOUR = SearchSpace(
    "four",
    (20, 28),
    (8, 16),
    2,
    (
        StageSpace("mb1", (8, 16), (1, 2), (3, 5), (1,), stride=1, se=False),
        StageSpace("mb2", (16, 24), (1, 2, 3), (3, 5), (2, 3), stride=2, se=False),
        StageSpace("mb3", (24, 40), (1, 2, 3), (3, 5), (2, 4), stride=2, se=True),
        StageSpace("mb4", (40, 48), (1, 2), (3, 5), (3, 4), stride=1, se=True),
    ),
    (96, 128),
    2,
)
GOLDEN, MASK = 0x9E3779B97F4A7C15, 2**64 - 1


def random_supernet(space: SearchSpace, classes: int = 5) -> Supernet:
    """All weights random, those of batch norms too, so that all of them affect the output."""
    supernet = Supernet(space, classes, zero_init=False)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in supernet.parameters():
            p.copy_(torch.randn(p.shape, generator=draws) * (0.5 if p.ndim < 2 else (2 / p[0].numel()) ** 0.5) + 0.5 * (p.ndim < 2))
    return supernet


def random_images(n: int, side: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def glyphs() -> Supernet:
    return random_supernet(GLYPHS)


@pytest.fixture(scope="module")
def four() -> Supernet:
    return random_supernet(FOUR)


@pytest.fixture(scope="module")
def tiny(tiny_space) -> Supernet:
    return random_supernet(tiny_space)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", ["tiny", "four", "glyphs"])
@torch.no_grad()
def test_an_extracted_network_is_the_supernet_bit_for_bit(request, rng, name, memory_format):
    """Both ends and random ones in between, with batch statistics, odd sides (20 -> 10 -> 5 -> 3), resized input."""
    supernet = request.getfixturevalue(name)
    images = random_images(6, 20).contiguous(memory_format=memory_format)
    archs = [supernet.space.smallest(), supernet.space.largest(), *(supernet.space.random(rng) for _ in range(20))]
    assert {a.resolution for a in archs} == set(supernet.space.resolutions)
    for arch in archs:
        network = extract(supernet, arch)
        assert network.training
        assert torch.equal(network(images), supernet(images, arch)), arch
        other = network.to(memory_format=torch.channels_last)  # weights too: other kernels may sum in another order
        torch.testing.assert_close(other(images), supernet(images, arch), rtol=0, atol=1e-5)


@torch.no_grad()
def test_memory_formats_agree(glyphs, rng):
    """The same sub-network in both memory formats, to 1e-4 of the logits' size."""
    images = random_images(6, 28)
    for _ in range(5):
        arch = GLYPHS.random(rng)
        plain, last = glyphs(images, arch), glyphs(images.contiguous(memory_format=torch.channels_last), arch)
        assert torch.allclose(plain, last, atol=1e-4 * plain.abs().max().item())


@torch.no_grad()
def test_sub_networks_differ(four):
    """Changing any one gene of the largest network changes the logits."""
    images, largest = random_images(6, 28), FOUR.largest()
    logits = four(images, largest)
    for i, gene in enumerate(FOUR.genes):
        if len(gene.choices) > 1:
            genes = list(largest.genes)
            genes[i] = gene.choices[0]
            assert not torch.allclose(four(images, Arch.from_genes(genes)), logits), gene.name


def test_a_call_changes_no_state(glyphs, rng):
    """After twenty other calls the output is the same, and weights and gradients have not changed."""
    images, arch = random_images(4, 28), GLYPHS.random(rng)
    before, weights = glyphs(images, arch), copy.deepcopy(glyphs.state_dict())
    for _ in range(20):
        glyphs(images, GLYPHS.random(rng), Regularisation(0.5, 0.5, torch.arange(4)))
    assert torch.equal(glyphs(images, arch), before)
    assert all(torch.equal(v, weights[k]) for k, v in glyphs.state_dict().items())
    assert all(p.grad is None for p in glyphs.parameters())
    assert not list(glyphs.buffers())


def test_fewer_than_two_classes_are_refused():
    """A classifier needs two classes."""
    with pytest.raises(ValueError, match="1 classes"):
        Supernet(GLYPHS, 1)


@torch.no_grad()
def test_zero_init_makes_every_block_its_shortcut(tiny_space):
    """With the last batch norm at zero, a block without shortcut convolution gives its input back."""
    supernet = Supernet(tiny_space, 3, zero_init=True)
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(supernet.stages[0][1](x, 16, 5, 1), x)
    assert not torch.equal(Supernet(tiny_space, 3, zero_init=False).stages[0][1](x, 16, 5, 1), x)


@given(st.data())
def test_gradient_of_a_part_is_that_of_plain_slicing(data):
    """With two overlapping slices and the whole tensor, the leaf's gradients add up as autograd's do, bit for bit."""
    sides = (6, 4, 5, 5)
    places = [tuple(slice(a := data.draw(st.integers(0, n - 1)), data.draw(st.integers(a + 1, n))) for n in sides) for _ in range(2)]
    places.append(tuple(slice(n) for n in sides))
    values = torch.randn(sides, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, reference = values.clone().requires_grad_(), values.clone().requires_grad_()
    for where in places:
        for weight, cut in ((ours, layers.part(ours, *where)), (reference, reference[where])):
            assert torch.equal(cut, weight[where])
            (cut**3).sum().backward()
    assert torch.equal(ours.grad, reference.grad)


def test_gradient_of_a_sub_network_is_that_of_plain_slicing(tiny, tiny_space, monkeypatch, rng):
    """Two sub-networks in sequence, with `part` and with autograd's own slicing, in float64."""
    images, archs = random_images(4, 20).double(), [tiny_space.random(rng), tiny_space.smallest()]

    def gradients() -> dict[str, torch.Tensor | None]:
        net = copy.deepcopy(tiny).double()
        for arch in archs:
            net(images, arch).square().sum().backward()
        return {name: p.grad for name, p in net.named_parameters()}

    ours = gradients()
    for module in ("nas.models.layers.part", "nas.models.supernet.part"):
        monkeypatch.setattr(module, lambda weight, *where: weight[where])
    reference = gradients()
    assert any(g is not None for g in reference.values())
    for name, expected in reference.items():
        assert (ours[name] is None) == (expected is None), name
        assert expected is None or torch.allclose(ours[name], expected, rtol=1e-9, atol=1e-12), name


def test_an_extracted_network_shares_no_memory(tiny, tiny_space):
    """Overwriting it, smallest or largest, does not change the supernet."""
    before = copy.deepcopy(tiny.state_dict())
    for arch in (tiny_space.smallest(), tiny_space.largest()):
        network = extract(tiny, arch)
        with torch.no_grad():
            for t in network.state_dict().values():
                t.fill_(7)
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())


def test_an_architecture_of_another_space_is_not_extracted(tiny):
    """The message names the space."""
    with pytest.raises(ValueError, match="space 'tiny'"):
        extract(tiny, GLYPHS.smallest())


@pytest.mark.parametrize(("space", "classes", "n"), [(PAPER, 1000, 50), (GLYPHS, 26, 10)], ids=lambda v: getattr(v, "name", v))
def test_flops_are_those_that_torch_counts(space, classes, n, rng):
    """FlopCounterMode counts two for a multiply-accumulate of every convolution and matrix product of the network that runs."""
    table = flops.table(space, classes)
    for arch in [space.smallest(), space.largest(), *(space.random(rng) for _ in range(n))]:
        network = Network(space, arch, classes, device="meta").eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 3, arch.resolution, arch.resolution, device="meta"))
        assert counter.get_total_flops() == 2 * round(table.cost(arch) * 1e6), arch


def test_flops_of_the_network_with_weights(tiny, tiny_space, rng):
    """The same for extracted networks, with an image."""
    table = flops.table(tiny_space, 5)
    for _ in range(10):
        arch = tiny_space.random(rng)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            extract(tiny, arch).eval()(random_images(1, arch.resolution))
        assert counter.get_total_flops() == 2 * round(table.cost(arch) * 1e6)


@torch.no_grad()
def test_a_calibrated_network_treats_images_independently(glyphs):
    """In eval mode an image's logits do not depend on the rest of the batch."""
    network = extract(glyphs, GLYPHS.largest())
    calibrate(network, [random_images(16, 28)])
    some = random_images(3, 28, seed=2)
    single = torch.cat([network(image[None]) for image in some])
    assert torch.allclose(single, network(some), atol=1e-4 * single.abs().max().item())


def splitmix64(x: int) -> int:
    """One output for a state: Steele, Lea and Flood's mixing function, on Python's unbounded integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_the_reference_is_splitmix64():
    """The first outputs of seed 1234567, as widely published."""
    outputs = [splitmix64((1234567 + i * GOLDEN) & MASK) for i in (1, 2, 3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4), st.integers(0, 60))
def test_counted_uniform_is_splitmix64(keys, stream):
    """A generator seeded by key and stream, its outputs' upper 24 bits as a fraction."""
    seeds = [splitmix64((key + stream * 0x632BE59BD9B4E019) & MASK) for key in keys]
    expected = [[(splitmix64((s + i * GOLDEN) & MASK) >> 40) / 2**24 for i in (1, 2, 3)] for s in seeds]
    assert counted_uniform(torch.tensor(keys), stream, 3).tolist() == expected


def test_counted_uniform_depends_on_the_key_only():
    """The rest of the batch, its order and the number of columns do not matter."""
    keys = torch.arange(100) + 2**40
    whole, order = counted_uniform(keys, 3, 8), torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(counted_uniform(keys[order], 3, 8), whole[order])
    assert torch.equal(counted_uniform(keys[7:8], 3, 2), whole[7:8, :2])
    assert not torch.equal(counted_uniform(keys, 4, 8), whole)


@pytest.mark.parametrize("stream", [0, 1, 30])
def test_counted_uniform_is_uniform(stream):
    """For consecutive keys: Kolmogorov-Smirnov, mean and variance, and no correlation along keys or columns."""
    u = counted_uniform(torch.arange(2000) + 5 * 2**50, stream, 50).double().numpy()
    assert stats.kstest(u.ravel(), "uniform").pvalue > 0.001
    n = u.size
    assert abs(u.mean() - 1 / 2) < 4 * (1 / 12 / n) ** 0.5
    assert abs(u.var() - 1 / 12) < 4 * (1 / 180 / n) ** 0.5
    for a, b in ((u[1:], u[:-1]), (u[:, 1:], u[:, :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / n**0.5


def test_dropout_keeps_the_mean():
    """Each feature is 0 or 1 / (1 - p) of what it was; 100,000 of them keep their mean to four deviations."""
    dropped = Regularisation(0.2, 0.0, torch.arange(1000)).drop(torch.ones(1000, 100))
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    assert abs(dropped.mean().item() - 1) < 4 * (0.25 / 100_000) ** 0.5


def test_drop_connect_depends_on_image_and_block():
    """Block b of B drops whole branches with probability p b / B: none at block 0, a quarter at half of p = 0.5."""
    branch = torch.ones(4000, 2, 2, 2)
    regularise = Regularisation(0.0, 0.5, torch.arange(4000))
    assert regularise.connect(branch, 0, 8) is branch
    out = regularise.connect(branch, 4, 8)
    mask = out[:, 0, 0, 0] > 0
    assert torch.equal(out, (mask.float() / 0.75)[:, None, None, None].expand_as(out))
    assert abs(mask.float().mean().item() - 0.75) < 4 * (0.75 * 0.25 / 4000) ** 0.5
    assert not torch.equal(mask, regularise.connect(branch, 5, 8)[:, 0, 0, 0] > 0)


class Recorder:
    """A regularisation that drops nothing and records the blocks."""

    def __init__(self) -> None:
        self.blocks: list[tuple[int, int]] = []

    def connect(self, branch: torch.Tensor, block: int, blocks: int) -> torch.Tensor:
        self.blocks.append((block, blocks))
        return branch

    def drop(self, features: torch.Tensor) -> torch.Tensor:
        return features


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([(16, 2), (24, 3), (40, 3), (48, 2)], [6, 7, 9]),  # first blocks: stride 2, and 40 -> 48 channels
        ([(16, 1), (24, 2), (40, 2), (40, 2)], [4, 5, 6]),  # 40 -> 40 at stride 1 is an identity too
        ([(8, 1), (16, 1), (24, 1), (40, 1)], []),
    ],
)
@torch.no_grad()
def test_drop_connect_is_on_identity_shortcuts_of_the_last_two_stages(four, stages, expected):
    """The blocks by hand, with their index among all blocks."""
    widths, depths = zip(*stages)
    arch = Arch.from_genes([20, 8, *widths, 96, *depths, 3, 3, 3, 3, 1, 2, 2, 3])
    recorder = Recorder()
    four(random_images(2, 20), FOUR.check(arch), recorder)
    assert recorder.blocks == [(block, sum(depths)) for block in expected]


@torch.no_grad()
def test_regularisation_depends_on_the_keys_only(glyphs):
    """The same keys drop the same, other keys do not; probabilities of zero drop nothing."""
    images, arch = random_images(4, 28), GLYPHS.largest()
    first, second, other = (
        glyphs(images, arch, Regularisation(0.5, 0.5, keys)) for keys in torch.tensor([[1, 2, 3, 4]] * 2 + [[5, 6, 7, 8]])
    )
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(glyphs(images, arch, Regularisation(0.0, 0.0, torch.arange(4))), glyphs(images, arch))
