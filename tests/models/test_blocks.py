"""nas.models.blocks: networks from rows, against torch's counters and torchvision's block."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from nas.cost import parameters
from nas.cost.flops import MultiplyAdds, multiply_adds
from nas.data.torchvision_import import models
from nas.models.blocks import ACTIVATIONS, InvertedResidual, RowNetwork
from nas.models.fuse import fold
from nas.spaces.rows import Head, Plan, Row, Squeeze, Stem

acts = st.sampled_from(list(ACTIVATIONS))


@st.composite
def plans(draw) -> Plan:
    """Short networks of any shape."""
    widths = draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    rows = []
    for c_in, c_out in pairwise(widths):
        hidden, se = draw(st.one_of(st.just(c_in), st.integers(1, 12))), draw(st.integers(0, 4))
        rows.append(Row(c_in, hidden, se, c_out, draw(st.sampled_from([3, 5])), draw(st.sampled_from([1, 2])), draw(acts)))
    head = Head(draw(st.integers(1, 8)), draw(acts), draw(st.sampled_from([0, 5])))
    squeeze = Squeeze(draw(st.one_of(st.none(), acts)), draw(st.sampled_from(["Sigmoid", "HSigmoid"])))
    return Plan(draw(st.integers(5, 16)), Stem(widths[0], draw(st.sampled_from([1, 2])), draw(acts)), tuple(rows), head, squeeze)


def counted(plan: Plan, classes: int) -> int:
    """Multiply-accumulates that torch counts while the network runs."""
    with torch.device("meta"):
        network = RowNetwork(plan, classes).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 3, plan.resolution, plan.resolution))
    return counter.get_total_flops() // 2


@settings(max_examples=50, deadline=None)
@given(plans(), st.integers(2, 9))
def test_products_are_those_that_torch_counts(plan, classes):
    """Exactly half of FlopCounterMode's count."""
    assert multiply_adds(plan, classes).products == counted(plan, classes)


@settings(max_examples=50, deadline=None)
@given(plans(), st.integers(2, 9))
def test_parameters_are_those_of_the_module(plan, classes):
    """Counted from shapes and in the built network."""
    with torch.device("meta"):
        network = RowNetwork(plan, classes)
    assert parameters.of_plan(plan, classes) == sum(p.numel() for p in network.parameters())


def test_macs_that_torch_omits_by_hand():
    """Biases of a squeeze (4 + 12) and of 10 classes, and 8 channels x 4 x 4 pixels of the pool."""
    plan = Plan(16, Stem(6, 2, "ReLU"), (Row(6, 12, 4, 6, 3, 2, "Swish"),), Head(8, "Swish"), Squeeze(None, "Sigmoid"))
    macs = multiply_adds(plan, 10)
    assert macs == MultiplyAdds(macs.products, 26, 128)
    assert macs.total == macs.products + 154


@settings(max_examples=20, deadline=None)
@given(plans(), st.integers(0, 1000))
def test_folding_changes_nothing(plan, seed):
    """A network with folded batch norms computes the same function."""
    torch.manual_seed(seed)
    network = RowNetwork(plan, 3)
    images = torch.randn(4, 3, plan.resolution, plan.resolution)
    network(images)  # some statistics
    network.eval()
    torch.testing.assert_close(fold(network)(images), network(images), rtol=1e-3, atol=1e-4)


def test_a_block_is_that_of_mobilenet_v2():
    """Torchvision's block with the same weights gives the same output, with ReLU6 and a shortcut."""
    torch.manual_seed(0)
    reference, block = (
        models.mobilenetv2.InvertedResidual(8, 8, 1, 6),
        InvertedResidual(Row(8, 48, 0, 8, 3, 1, "ReLU6"), Squeeze(None, "Sigmoid")),
    )
    for target, source in zip(block.state_dict().values(), reference.state_dict().values(), strict=True):
        target.copy_(source)
    x = torch.randn(2, 8, 7, 7)
    torch.testing.assert_close(block(x), reference(x))


def test_rows_with_different_channels_are_refused():
    """The message has the row and both numbers of channels."""
    with pytest.raises(ValueError, match="row 1 takes 7 channels, the one before gives 6"):
        rows = (Row(4, 4, 0, 6, 3, 1, "ReLU"), Row(7, 7, 0, 6, 3, 1, "ReLU"))
        Plan(8, Stem(4, 2, "ReLU"), rows, Head(8, "ReLU"), Squeeze(None, "Sigmoid"))


@pytest.mark.parametrize("wrong", [{"kernel": 4}, {"hidden": 0}, {"se": -1}, {"act": "relu"}])
def test_impossible_rows_are_refused(wrong):
    """An even kernel, no channels, an unknown activation."""
    with pytest.raises(ValueError):
        Row(**{"c_in": 4, "hidden": 8, "se": 0, "c_out": 4, "kernel": 3, "stride": 1, "act": "ReLU"} | wrong)
