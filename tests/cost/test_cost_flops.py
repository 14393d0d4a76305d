"""FLOPs from shapes: sums by hand, and the papers' figures."""

import numpy as np
import pytest

from nas.cost import flops
from nas.spaces import FOLDER, encoding, published
from nas.spaces.mbconv import Arch, SearchSpace, StageArch, StageSpace, load, make_divisible

PAPER = flops.table(load(FOLDER / "attentive_nas.yaml"), classes=1000)


def test_conv_macs_of_a_dense_3x3():
    """3 -> 8 channels, 3x3, 16x16 out: 3 * 8 * 9 * 256 = 55 296."""
    assert flops.conv_macs(3, 8, 3, 16) == 55_296


def test_conv_macs_of_a_depthwise_5x5():
    """8 channels, each by itself, 5x5, 4x4 out: 8 * 25 * 16 = 3200."""
    assert flops.conv_macs(8, 8, 5, 4, groups=8) == 3200


@pytest.mark.parametrize(("channels", "rounded"), [(3, 8), (8, 8), (11, 16), (12, 16), (28, 32), (35, 32), (36, 40), (64, 64)])
def test_make_divisible(channels, rounded):
    """Nearest multiple of 8, halves up; 11 -> 8 would lose more than 10 % and becomes 16."""
    assert make_divisible(channels) == rounded


def test_block_macs_by_hand():
    """Strided, with SE and a shortcut convolution: 102400 + 14400 + 2048 + 38400 + 9600, line by line."""
    expand, depthwise, se = 16 * 64 * 100, 64 * 9 * 25, 2 * 64 * 16
    project, shortcut = 64 * 24 * 25, 16 * 24 * 25
    arch = StageArch(width=24, depth=1, kernel=3, expansion=4)

    assert flops.block_macs(side=10, stride=2, c_in=16, arch=arch, se=True) == expand + depthwise + se + project + shortcut


def test_block_without_expansion():
    """Expansion 1 has no expansion layer, equal channels no shortcut convolution: 16 * 9 * 49 + 16 * 16 * 49."""
    arch = StageArch(width=16, depth=1, kernel=3, expansion=1)

    assert flops.block_macs(side=7, stride=1, c_in=16, arch=arch, se=False) == 16 * 9 * 49 + 16 * 16 * 49


def test_head_macs_by_hand():
    """8 -> 48 on 3x3, 48 -> 32 after the mean, 32 -> 10 classes: 3456 + 1536 + 320."""
    assert flops.head_macs(c_in=8, expansion=6, width=32, side=3, classes=10) == 3456 + 1536 + 320


def test_whole_network_by_hand():
    """An odd side is rounded up at each stride (9 -> 5 -> 3) and later blocks of a stage have stride 1 and the new width."""
    stage = StageSpace("mb1", (16,), (2,), (3,), (2,), stride=2, se=False)
    space = SearchSpace("one", (9,), (8,), 2, (stage,), (32,), 2)
    stem = 3 * 8 * 9 * 25
    first = 8 * 16 * 25 + 16 * 9 * 9 + 16 * 16 * 9 + 8 * 16 * 9
    second = 16 * 32 * 9 + 32 * 9 * 9 + 32 * 16 * 9
    head = 16 * 32 * 9 + 32 * 32 + 32 * 5
    table = flops.table(space, classes=5)

    assert table.cost(Arch(9, 8, (StageArch(16, 2, 3, 2),), 32)) * 1e6 == pytest.approx(stem + first + second + head, abs=1e-6)


@pytest.mark.parametrize("network", published.networks("attentive_nas"), ids=lambda n: n.name)
def test_published_networks(network):
    """The papers' 15 networks have their published MFLOPs, given to three decimals."""
    assert PAPER.cost(network.arch) == pytest.approx(network.mflops, abs=6e-4)


def test_published_ends_of_the_space():
    """203.390 and 1939.336 MFLOPs are the smallest and the largest architecture's, and the space's true extremes."""
    assert PAPER.cost(PAPER.space.smallest()) == PAPER.smallest == pytest.approx(203.390, abs=6e-4)
    assert PAPER.cost(PAPER.space.largest()) == PAPER.largest == pytest.approx(1939.336, abs=6e-4)


def test_more_classes_cost_the_classifier_only():
    """100 classes more cost 100 * the head's width."""
    few, many = (flops.table(PAPER.space, classes).cost(published.find("AttentiveNAS-A1").arch) for classes in (10, 110))

    assert (many - few) * 1e6 == pytest.approx(100 * 1984)


def test_no_classes_is_an_error():
    """A table for 0 classes is refused."""
    with pytest.raises(ValueError, match="0 classes"):
        flops.table(PAPER.space, classes=0)


def test_rows_and_single_architectures_agree(rng):
    """A thousand at once cost what each costs alone."""
    rows = encoding.random_genes(PAPER.space, 1000, rng)

    assert np.array_equal(PAPER.costs(rows), [PAPER.cost(a) for a in encoding.from_genes(rows)])
