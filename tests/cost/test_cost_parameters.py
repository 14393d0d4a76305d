"""Numbers of parameters: sums by hand, and torch's own count of extracted networks."""

import numpy as np
import pytest

from nas.cost import parameters
from nas.models.extract import Network
from nas.spaces import FOLDER, encoding
from nas.spaces.mbconv import Arch, SearchSpace, StageArch, StageSpace, load

PAPER = load(FOLDER / "attentive_nas.yaml")


def counted(space: SearchSpace, arch: Arch, classes: int) -> int:
    return sum(p.numel() for p in Network(space, arch, classes, device="meta").parameters())


def test_block_parameters_by_hand():
    """16 -> 24 channels, expansion 4, kernel 3, SE: expansion, depthwise, SE, projection and shortcut, line by line."""
    expand, depthwise, se = 16 * 64 + 2 * 64, 64 * 9 + 2 * 64, 64 * 16 + 16 + 16 * 64 + 64
    project, shortcut = 64 * 24 + 2 * 24, 16 * 24
    arch = StageArch(width=24, depth=1, kernel=3, expansion=4)
    assert parameters.block_parameters(16, arch, se=True) == expand + depthwise + se + project + shortcut


def test_whole_network_by_hand():
    """Two blocks, the second of the first one's width and so without a shortcut convolution."""
    space = SearchSpace("one", (9,), (8,), 2, (StageSpace("mb1", (16,), (2,), (3,), (2,), stride=2, se=False),), (32,), 2)
    stem = 3 * 8 * 9 + 16
    first = 8 * 16 + 32 + 16 * 9 + 32 + 16 * 16 + 32 + 8 * 16
    second = 16 * 32 + 64 + 32 * 9 + 64 + 32 * 16 + 32
    head = 16 * 32 + 64 + 32 * 32 + 32 * 5 + 5
    assert parameters.table(space, 5).cost(Arch(9, 8, (StageArch(16, 2, 3, 2),), 32)) == stem + first + second + head


def test_torch_counts_the_same_in_the_tiny_space(tiny_space, rng):
    """Twenty random networks and both ends of the space have torch's count, with 7 classes."""
    archs = [tiny_space.smallest(), tiny_space.largest(), *(tiny_space.random(rng) for _ in range(20))]
    assert parameters.table(tiny_space, 7).costs(encoding.to_genes(archs)).tolist() == [counted(tiny_space, a, 7) for a in archs]


def test_torch_counts_the_same_in_the_papers_space(rng):
    """Both ends and three random networks of AttentiveNAS's space have torch's count, with 1000 classes."""
    archs = [PAPER.smallest(), PAPER.largest(), *(PAPER.random(rng) for _ in range(3))]
    assert parameters.table(PAPER, 1000).costs(encoding.to_genes(archs)).tolist() == [counted(PAPER, a, 1000) for a in archs]


def test_the_resolution_makes_no_difference(tiny_space, tiny_rows):
    """Architectures at 16 and at 20 px have the same numbers of parameters."""
    costs = parameters.table(tiny_space, 3).costs(tiny_rows)
    assert np.array_equal(np.sort(costs[tiny_rows[:, 0] == 16]), np.sort(costs[tiny_rows[:, 0] == 20]))


def test_no_classes_are_refused(tiny_space):
    """0 classes raise, as with FLOPs."""
    with pytest.raises(ValueError, match="0 classes"):
        parameters.table(tiny_space, 0)
