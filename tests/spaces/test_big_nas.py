"""BigNAS's space: FLOPs of its ends, counted in three ways, and the costs of the published models."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas.cost import flops
from nas.models.extract import Network, extract
from nas.models.supernet import Supernet
from nas.sampling.exact import ExactSampler
from nas.spaces import FOLDER
from nas.spaces.mbconv import load

BIG = load(FOLDER / "big_nas.yaml")
TABLE = flops.table(BIG, classes=1000)
PUBLISHED = {"BigNASModel-S": 242, "BigNASModel-M": 418, "BigNASModel-L": 586, "BigNASModel-XL": 1040}  # MFLOPs

# the smallest network's blocks: channels in, hidden, of squeeze-and-excitation, out; side before and after, pixels; all 3x3
SMALLEST = [
    (32, 32, 8, 16, 96, 96),
    (16, 96, 24, 24, 96, 48),
    (24, 144, 40, 24, 48, 48),
    (24, 144, 40, 40, 48, 24),
    (40, 240, 64, 40, 24, 24),
    (40, 240, 64, 80, 24, 12),
    (80, 480, 120, 80, 12, 12),
    (80, 480, 120, 112, 12, 12),
    (112, 672, 168, 112, 12, 12),
    (112, 672, 168, 192, 12, 6),
    (192, 1152, 288, 192, 6, 6),
    (192, 1152, 288, 320, 6, 6),
]


def published_form() -> int:
    """Multiply-accumulates of the smallest network as BigNAS builds it: a head of one convolution, shortcuts without one."""
    stem, head, classifier = 3 * 32 * 9 * 96**2, 320 * 1280 * 6**2, 1280 * 1000
    expand = sum(c * hidden * before**2 for c, hidden, _, _, before, _ in SMALLEST[1:])
    depthwise = sum(hidden * 9 * after**2 for _, hidden, _, _, _, after in SMALLEST)
    squeeze = sum(2 * hidden * reduced for _, hidden, reduced, *_ in SMALLEST)
    project = sum(hidden * out * after**2 for _, hidden, _, out, _, after in SMALLEST)
    return stem + expand + depthwise + squeeze + project + head + classifier


def test_size_of_big_nas():
    """Resolutions, stem and head, widths, depths, kernels: 4 * 4 * 960 * 1200 * 32, and the dynamic programme agrees."""
    widths, depths, kernels = 2 * 2 * 2 * 2 * 3 * 4 * 5, 2 * 2 * 2 * 3 * 5 * 5 * 2, 2**5

    assert BIG.size == 4 * (2 * 2) * widths * depths * kernels == 589_824_000
    assert ExactSampler(TABLE, step=25, bins=5000).count == BIG.size


def test_smallest_big_nas_network_by_hand():
    """The published form plus this project's additions: convolutions on shortcuts that change channels, one after the mean."""
    shortcuts = sum(c * out * after**2 for c, _, _, out, _, after in SMALLEST if c != out)

    assert round(TABLE.cost(BIG.smallest()) * 1e6) == published_form() + shortcuts + 1280 * 1280


def test_big_nas_starts_where_its_paper_does():
    """The paper's models begin at 200 MFLOPs; its form of the smallest network costs that to 5 %."""
    assert published_form() / 1e6 == pytest.approx(200, rel=0.05)


def test_ends_of_big_nas():
    """The smallest and largest architectures, 221 and 1902 MFLOPs, are the extremes of cost."""
    assert TABLE.cost(BIG.smallest()) == TABLE.smallest == pytest.approx(221.02, abs=0.01)
    assert TABLE.cost(BIG.largest()) == TABLE.largest == pytest.approx(1901.76, abs=0.01)


@pytest.mark.parametrize("name", PUBLISHED)
def test_costs_of_published_big_nas_models_are_reachable(name):
    """Some architectures have every published cost to 1 MFLOP."""
    cost = PUBLISHED[name]
    drawn = ExactSampler(TABLE, step=25, bins=20_000).draw_between(cost - 1, cost + 1, 20, np.random.default_rng(0))

    assert all(abs(TABLE.cost(arch) - cost) <= 1 for arch in drawn.archs())


def test_big_nas_networks_cost_what_torch_counts(rng):
    """Two per multiply-accumulate of all convolutions and matrix products, for the ends and 15 random architectures."""
    for arch in [BIG.smallest(), BIG.largest(), *(BIG.random(rng) for _ in range(15))]:
        network = Network(BIG, arch, 1000, device="meta").eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 3, arch.resolution, arch.resolution, device="meta"))
        assert counter.get_total_flops() == 2 * round(TABLE.cost(arch) * 1e6), arch


@pytest.mark.parametrize("end", ["smallest", "largest"])
def test_extracted_big_nas_networks_cost_what_torch_counts(end):
    """The same for both ends extracted from a supernet, on an image."""
    arch = getattr(BIG, end)()
    network = extract(Supernet(BIG, classes=1000), arch).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = network(torch.zeros(1, 3, 224, 224))

    assert logits.shape == (1, 1000)
    assert counter.get_total_flops() == 2 * round(TABLE.cost(arch) * 1e6)


def test_big_nas_is_wider_and_shallower():
    """Appendix D: AttentiveNAS's networks are deeper and narrower, at both ends and on average over the choices."""
    paper = load(FOLDER / "attentive_nas.yaml")
    for of in (min, max, np.mean):
        assert sum(of(s.depths) for s in BIG.stages) < sum(of(s.depths) for s in paper.stages)
        assert sum(of(s.widths) for s in BIG.stages) > sum(of(s.widths) for s in paper.stages)
