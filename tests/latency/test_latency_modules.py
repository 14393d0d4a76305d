"""Pieces of a network and whole ones compute what the extracted network does, in torch and in ONNX Runtime."""

import numpy as np
import pytest
import torch

from nas.cost.latency import Piece, pieces
from nas.latency.backends.config import OnnxRuntime, Torch
from nas.latency.backends.torch_backend import processor
from nas.latency.modules import module, network
from nas.models.extract import Network
from nas.spaces.mbconv import Arch, StageArch

ARCH = Arch(20, 8, (StageArch(16, 2, 5, 1), StageArch(24, 3, 3, 2)), 32)


@pytest.fixture
def whole(tiny_space) -> Network:
    torch.manual_seed(0)
    return network(tiny_space, ARCH, classes=5)


def cut(searched, whole: Network) -> list[tuple[Piece, torch.nn.Module]]:
    """The pieces of a folded network, each with the network's own weights."""
    parts = [whole, *(block for stage in whole.stages for block in stage), whole]
    found = []
    for piece, part in zip(pieces(searched, ARCH), parts, strict=True):
        alone = module(searched, piece, classes=5)
        alone.load_state_dict({k: v for k, v in part.state_dict().items() if k in alone.state_dict()})
        found.append((piece, alone))
    return found


@torch.no_grad()
def test_the_pieces_in_a_row_are_the_network(tiny_space, whole):
    """With the same weights, the same logits to the last bit; each piece gets an input of the side that its name tells."""
    images = torch.randn(3, 3, 20, 20)
    x = images
    for piece, part in cut(tiny_space, whole):
        assert x.shape[-1] == piece.side
        x = part(x)
    assert torch.equal(x, whole(images))


def test_no_number_is_too_small_to_be_usual(tiny_space, whole):
    """Random weights must not make numbers die out on the way: processors are slow with those near zero."""
    with torch.no_grad():
        x = torch.randn(2, 3, 20, 20)
        for _, part in cut(tiny_space, whole):
            x = part(x)
            assert 1e-6 < x.abs().mean() < 1e6


def test_torch_runs_with_its_settings(tiny_space):
    """In the memory format and with the threads asked for, without gradients; the threads before are set again."""
    backend = Torch(runtime="torch", device="cpu", threads=1, channels_last=True).start()
    before = torch.get_num_threads()
    with backend.running():
        images = backend.random(2, 3, 20)
        call = backend.prepare(network(tiny_space, ARCH, 5), images)
        assert images.is_contiguous(memory_format=torch.channels_last) and torch.get_num_threads() == 1
        assert call.stem.weight.is_contiguous(memory_format=torch.channels_last)
        assert call(images).shape == (2, 5) and call(images).is_inference()
    assert torch.get_num_threads() == before
    assert backend.facts()["memory_format"] == "channels_last" and backend.facts()["device"] == processor() != ""


def test_a_device_that_is_not_there_is_named():
    """With the key to change."""
    with pytest.raises(ValueError, match=r"params\.yaml: latency\.backend\.device: 'cuda:99' cannot be used here"):
        Torch(runtime="torch", device="cuda:99", threads=1, channels_last=True).start()


@pytest.fixture
def onnx_backend():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return OnnxRuntime(runtime="onnxruntime", threads=1).start()


def test_onnx_runtime_gives_the_same_numbers(tiny_space, whole, onnx_backend):
    """The whole network and each piece of it, strides, odd sides and squeeze-and-excitation among them, to 1e-5."""
    images = onnx_backend.random(3, 3, 20)
    with torch.no_grad():
        expected = whole(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(onnx_backend.prepare(whole, images)(images), expected, atol=1e-5, rtol=1e-5)
        x = images
        for _, part in cut(tiny_space, whole):
            given, x = x, onnx_backend.prepare(part, x)(x)
            np.testing.assert_allclose(x, part(torch.from_numpy(given)).numpy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [5, 6])
def test_onnx_pools_odd_sides_as_torch_does(tiny_space, onnx_backend, side):
    """A strided block on 5 x 5 and on 6 x 6 gives 3 x 3."""
    piece = next(p for p in pieces(tiny_space, ARCH) if getattr(p, "stage", "") == "mb2" and p.first)
    block, x = module(tiny_space, piece, 5), np.random.default_rng(0).standard_normal((2, 16, side, side), dtype=np.float32)
    with torch.no_grad():
        expected = block(torch.from_numpy(x)).numpy()
    assert expected.shape[-1] == 3
    np.testing.assert_allclose(onnx_backend.prepare(block, x)(x), expected, atol=1e-5, rtol=1e-5)


def test_a_module_that_is_no_piece_is_refused(onnx_backend):
    """A graph with a layer left out would be fast and wrong."""
    with pytest.raises(TypeError, match="Linear is neither a network nor a piece"):
        onnx_backend.prepare(torch.nn.Linear(2, 2), np.zeros((1, 2), np.float32))
