"""nas.spaces.hardcore_nas: the space of HardCoRe-NAS, and the published networks in it."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas.cost import parameters
from nas.cost.flops import multiply_adds
from nas.models.blocks import RowNetwork
from nas.runtime.params import ParamsError
from nas.spaces import FOLDER, hardcore_nas, published
from nas.spaces.hardcore_nas import Arch
from nas.spaces.rows import Row

PAPER = hardcore_nas.load(FOLDER / "hardcore_nas.yaml")
GLYPHS = hardcore_nas.load(FOLDER / "hardcore_nas_glyphs.yaml")


def test_the_space_of_the_paper():
    """Five stages of 2, 3 or 4 blocks with 12 configurations each: (12^2 + 12^3 + 12^4)^5 networks."""
    assert len(PAPER.configurations) == len(set(PAPER.configurations)) == 12
    assert PAPER.size == (12**2 + 12**3 + 12**4) ** 5
    assert GLYPHS.size == (12 + 12**2 + 12**3) ** 3


@pytest.mark.parametrize("network", published.networks("hardcore_nas"), ids=lambda n: n.name)
def test_published_networks_cost_what_is_published(network):
    """Parameters and multiply-accumulates to 0.01 million."""
    plan = PAPER.plan(network.arch)
    assert multiply_adds(plan, 1000).products / 1e6 == pytest.approx(network.mflops, abs=0.01)
    assert parameters.of_plan(plan, 1000) / 1e6 == pytest.approx(network.parameters, abs=0.01)


def test_a_published_network_is_built_as_counted():
    """HardCoRe-NAS A from its rows: torch's counter and the tensors' sizes."""
    plan = PAPER.plan(published.find("hardcorenas_a", "hardcore_nas").arch)
    network = RowNetwork(plan, 1000).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() / 2 == multiply_adds(plan, 1000).products
    assert sum(p.numel() for p in network.parameters()) == parameters.of_plan(plan, 1000)


def test_rows_give_the_architecture_back(rng):
    """For any network of the space; the first row of a plan is the fixed block."""
    for _ in range(50):
        arch = PAPER.random(rng)
        assert PAPER.arch(PAPER.plan(arch).rows[1:]) == arch


def test_rows_of_another_space_are_refused():
    """The message says which block of which stage."""
    with pytest.raises(ValueError, match="not offered as block 0 of stage 's3'"):
        PAPER.arch([Row(16, 80, 0, 24, 3, 2, "ReLU")])


def test_the_largest_network_costs_most(rng):
    """At least as much as any of 100 random ones."""
    most = multiply_adds(GLYPHS.plan(GLYPHS.largest()), 10).total
    assert all(multiply_adds(GLYPHS.plan(GLYPHS.random(rng)), 10).total <= most for _ in range(100))


def test_stages_begin_at_these_sides():
    """224 px, halved by the stem and by every strided stage before it."""
    assert PAPER.sides() == (112, 56, 28, 14, 14)
    assert GLYPHS.sides() == (12, 12, 6)


def test_random_networks_have_every_depth_alike(rng):
    """A third each; uniform over networks, nearly all would have full depth."""
    depths = [len(GLYPHS.random(rng)[0]) for _ in range(3000)]
    assert np.bincount(depths)[1:] / 3000 == pytest.approx([1 / 3] * 3, abs=0.04)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (Arch(((0,), (0,))), "2 stages, but space 'hardcore_glyphs' has 3"),
        (Arch(((0,) * 4, (0,), (0,))), "4 blocks are not offered in stage 's3'"),
        (Arch(((0,), (12,), (0,))), "stage 's4': there is no configuration 12; there are 12"),
    ],
)
def test_architectures_outside_the_space_are_refused(arch, message):
    """`plan` checks its argument."""
    with pytest.raises(ValueError, match=message):
        GLYPHS.plan(arch)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("expansions: [2, 3, 4]", "expansions: [1, 3, 4]", "at least 2 are needed"),
        ("expansions: [2, 3, 4]", "expansions: [3, 2, 4]", "expansions: values must ascend"),
        ("kernels: [3, 5]", "kernels: [3, 4]", "kernel sides are odd, not 4"),
        ("depths: [1, 2, 3], stride: 1", "depths: [], stride: 1", "stages.0.depths"),
        ("act: HSwish", "act: GELU", "space.stem.act"),
        ("resolution: 24", "resolution: 24\nresolutons: [24]", "resolutons is not a known key; did you mean 'resolution'"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path, old, new, message):
    """The message has the file, the key, and what would be right."""
    file = tmp_path / "space.yaml"
    file.write_text((FOLDER / "hardcore_nas_glyphs.yaml").read_text().replace(old, new))
    with pytest.raises(ParamsError, match=message) as error:
        hardcore_nas.load(file)
    assert str(file) in str(error.value)


def test_a_missing_file_is_named():
    """The message has the key of params.yaml and the files beside it."""
    with pytest.raises(FileNotFoundError, match=r"params\.yaml: space: there is no file .*none\.yaml; found .*hardcore_nas_glyphs\.yaml"):
        hardcore_nas.load(FOLDER / "none.yaml")
