"""Profiling an MBConv space: its chains, and blocks that compute what the extracted network does, in torch and ONNX Runtime."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nas.cost.flops import stage_sides
from nas.cost.latency_mbconv import Block, Head, MBConvBlock, Stem, blocks_of, distinct_blocks
from nas.latency.backends.config import OnnxRuntime, Torch
from nas.latency.mbconv import ProfiledMBConv
from nas.models.extract import Network
from nas.runtime.processes import processor
from nas.spaces import mbconv
from nas.spaces.mbconv import Arch, SearchSpace, StageArch

SPACES = sorted(p for p in Path(mbconv.__file__).parent.glob("*.yaml") if not p.name.startswith(("tf_nas", "hardcore_nas")))
ARCH = Arch(20, 8, (StageArch(16, 2, 5, 1), StageArch(24, 3, 3, 2)), 32)


@pytest.fixture
def whole(tiny_space) -> Network:
    torch.manual_seed(0)
    return ProfiledMBConv(tiny_space).network(ARCH, classes=5)


def modules(space: SearchSpace, whole: Network) -> list[tuple[Block, torch.nn.Module]]:
    """The blocks of a folded network, each with the network's own weights."""
    parts = [whole, *(block for stage in whole.stages for block in stage), whole]
    pairs = []
    for block, part in zip(blocks_of(space, ARCH), parts, strict=True):
        module = ProfiledMBConv(space).module(block, classes=5)
        module.load_state_dict({k: v for k, v in part.state_dict().items() if k in module.state_dict()})
        pairs.append((block, module))
    return pairs


@torch.no_grad()
def test_the_blocks_in_sequence_are_the_network(tiny_space, whole):
    """The logits are bitwise equal with the same weights, and each block gets an input of the side that it states."""
    images = torch.randn(3, 3, 20, 20)
    x = images
    for block, module in modules(tiny_space, whole):
        assert x.shape[-1] == block.side
        x = module(x)
    assert torch.equal(x, whole(images))


def test_activations_stay_of_usual_size(tiny_space, whole):
    """Random weights do not let activations vanish: processors are slow with denormal numbers."""
    with torch.no_grad():
        x = torch.randn(2, 3, 20, 20)
        for _, module in modules(tiny_space, whole):
            x = module(x)
            assert 1e-6 < x.abs().mean() < 1e6


def test_torch_runs_with_its_settings(tiny_space):
    """Calls use the configured memory format and threads, without gradients; afterwards the number of threads is restored."""
    backend = Torch(runtime="torch", device="cpu", threads=1, channels_last=True).start()
    before = torch.get_num_threads()
    with backend.running():
        images = backend.random(2, 3, 20)
        call = backend.prepare(ProfiledMBConv(tiny_space).network(ARCH, 5), images)
        assert images.is_contiguous(memory_format=torch.channels_last) and torch.get_num_threads() == 1
        assert call.stem.weight.is_contiguous(memory_format=torch.channels_last)
        assert call(images).shape == (2, 5) and call(images).is_inference()
    assert torch.get_num_threads() == before
    assert backend.facts()["memory_format"] == "channels_last" and backend.facts()["device"] == processor() != ""


def test_an_unavailable_device_is_refused():
    """The message names the device and the key to change."""
    with pytest.raises(ValueError, match=r"params\.yaml: latency\.backend\.device: 'cuda:99' cannot be used here"):
        Torch(runtime="torch", device="cuda:99", threads=1, channels_last=True).start()


@pytest.fixture
def onnx_backend():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return OnnxRuntime(runtime="onnxruntime", threads=1).start()


def test_onnx_runtime_gives_the_same_numbers(tiny_space, whole, onnx_backend):
    """The whole network and each of its blocks agree to 1e-5, including strides, odd sides and squeeze-and-excitation."""
    images = onnx_backend.random(3, 3, 20)
    with torch.no_grad():
        expected = whole(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(onnx_backend.prepare(whole, images)(images), expected, atol=1e-5, rtol=1e-5)
        x = images
        for _, module in modules(tiny_space, whole):
            before, x = x, onnx_backend.prepare(module, x)(x)
            np.testing.assert_allclose(x, module(torch.from_numpy(before)).numpy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [5, 6])
def test_onnx_pools_odd_sides_as_torch_does(tiny_space, onnx_backend, side):
    """A strided block on 5 x 5 and on 6 x 6 gives 3 x 3."""
    first = next(b for b in blocks_of(tiny_space, ARCH) if getattr(b, "stage", "") == "mb2" and b.first)
    block, x = ProfiledMBConv(tiny_space).module(first, 5), np.random.default_rng(0).standard_normal((2, 16, side, side), dtype=np.float32)
    with torch.no_grad():
        expected = block(torch.from_numpy(x)).numpy()
    assert expected.shape[-1] == 3
    np.testing.assert_allclose(onnx_backend.prepare(block, x)(x), expected, atol=1e-5, rtol=1e-5)


def test_an_unknown_module_is_refused(onnx_backend):
    """A graph without one of its layers would be fast and wrong."""
    with pytest.raises(TypeError, match="Linear is neither a network nor a block"):
        onnx_backend.prepare(torch.nn.Linear(2, 2), np.zeros((1, 2), np.float32))


@pytest.mark.parametrize("path", SPACES, ids=lambda p: p.stem)
def test_chains_hold_every_block(path):
    """The chains of every shipped space hold the blocks of the space and nothing else."""
    space = mbconv.load(path)
    assert {block for chain in ProfiledMBConv(space).chains() for block in chain} == set(distinct_blocks(space))


@pytest.mark.parametrize("path", SPACES, ids=lambda p: p.stem)
def test_chains_fit_together(path):
    """Each block takes the channels of the one before, and the side that the strides before it lead to."""
    space = mbconv.load(path)
    for chain in ProfiledMBConv(space).chains():
        stem, *blocks, head = chain
        assert isinstance(stem, Stem) and isinstance(head, Head)
        sides = dict(zip([*(s.name for s in space.stages), "head"], stage_sides(space, stem.side)))
        after = dict(zip(sides, list(sides.values())[1:]))
        width = stem.width
        for block in blocks:
            assert isinstance(block, MBConvBlock) and block.c_in == width
            assert block.side == (sides if block.first else after)[block.stage]
            width = block.width
        assert (head.c_in, head.side) == (width, sides["head"])


def test_the_number_of_chains_is_near_the_number_of_choices():
    """The paper's space: its widest stage, mb5, has 36 first blocks at each of 4 resolutions; 168 chains hold all 928 blocks."""
    space = mbconv.load(SPACES[0].parent / "attentive_nas.yaml")
    assert len(distinct_blocks(space)) == 928
    assert 4 * 36 <= len(ProfiledMBConv(space).chains()) <= 1.2 * 4 * 36
