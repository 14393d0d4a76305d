"""Profiling a TF-NAS space on a made-up device: a microsecond per parameter, so latency is linear in the hidden channels."""

import numpy as np
import pytest
import torch

from nas.cost import parameters
from nas.cost.latency import RowBlock
from nas.cost.latency_tf_nas import operators
from nas.latency.backends.config import Torch
from nas.latency.profiler import Profile, profile
from nas.latency.rows import FixedPart
from nas.latency.tf_nas import ProfiledTfNas, TfNasLatencyConfig, measured_widths, operator_of
from nas.models.blocks import InvertedResidual, RowNetwork
from nas.models.fuse import fold
from nas.spaces import FOLDER, tf_nas
from tests.differentiable.tf_nas.tiny import TINY, random_arch
from tests.latency.test_latency_profiler import CALL_S, FIXED_S, Memory, Toy

CPU = Torch(runtime="torch", device="cpu", threads=1, channels_last=True)
CONFIG = TfNasLatencyConfig(backend=CPU, batch=1, repetitions=4, limit_s=1e6, fitted=4, networks=8, step=4)


SPACE = ProfiledTfNas(TINY, CONFIG.step)


class Device(Toy):
    def prepare(self, module: torch.nn.Module, example: int):
        seconds = 1e-6 * sum(p.numel() for p in module.parameters())
        return self.call(seconds + (FIXED_S if isinstance(module, RowNetwork) else CALL_S))


@pytest.fixture(scope="module")
def profiled() -> Profile:
    device = Device()
    return profile(CONFIG, SPACE, 5, 0, device, Memory())


def test_the_table_is_exact(profiled):
    """Any network, at widths between the measured ones, takes a microsecond per folded parameter and the fixed overhead."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        choice, _ = random_arch(TINY, rng)
        number = sum(p.numel() for p in fold(RowNetwork(TINY.plan(choice), 5).eval()).parameters())
        assert profiled.table.latency_ms(choice) == pytest.approx(1000 * FIXED_S + number / 1000, rel=1e-6)


def test_validation_on_a_noiseless_device_has_no_error(profiled):
    """The table predicts all validation networks."""
    metrics = profiled.metrics()
    assert len(profiled.validation()) == CONFIG.networks
    assert metrics["p90_relative_error"] < 1e-6 and metrics["kendall_tau_latency"] == pytest.approx(1)


def test_a_resumed_run_measures_no_saved_round_again(profiled):
    """The table of the resumed run is the same."""
    memory, first, second = Memory(), Device(), Device()
    profile(CONFIG, SPACE, 5, 0, first, memory)
    table = profile(CONFIG, SPACE, 5, 0, second, memory).table
    assert second.calls < first.calls / 10
    widths = TINY.start_widths()
    np.testing.assert_allclose(table.latencies_ms(widths), profiled.table.latencies_ms(widths), rtol=1e-9)


@pytest.mark.parametrize("name", ["tf_nas_glyphs.yaml", "tf_nas_efficientnet_b0.yaml"])
def test_chains_hold_every_operator_at_every_width(name):
    """Chains of the shipped spaces hold both ends of every operator's range."""
    searched = tf_nas.load(FOLDER / name)
    held = {(operator_of(p), p.row.hidden) for chain in ProfiledTfNas(searched, 3).chains() for p in chain if isinstance(p, RowBlock)}
    for key, (low, high) in operators(searched).items():
        assert {(key, low), (key, high)} <= held
    assert all(len(chain) == len(searched.layers) + 2 for chain in ProfiledTfNas(searched, 3).chains())


def test_blocks_of_a_chain_take_each_others_output():
    """A chain goes from images to classes."""
    x, space = torch.randn(2, 3, 8, 8), ProfiledTfNas(TINY, 2)
    for block in space.chains()[0]:
        x = space.module(block, 5)(x)
    assert x.shape == (2, 5)


def test_folded_blocks_of_a_chain_have_the_parameters_of_a_network():
    """The blocks of a chain sum to a network's parameters, including the shifts of the batch norms."""
    space = ProfiledTfNas(TINY, 2)
    chain, plan = space.chains()[1], TINY.fixed
    searched = [block.row for block in chain if isinstance(block, RowBlock)]
    whole = parameters.of_plan(type(plan)(plan.resolution, plan.stem, (*plan.rows, *searched), plan.head, plan.squeeze), 5)
    scales = plan.stem.width + plan.head.width
    scales += sum((row.hidden != row.c_in) * row.hidden + row.hidden + row.c_out for row in (*plan.rows, *searched))
    assert sum(p.numel() for block in chain for p in space.module(block, 5).parameters()) == whole - scales
    assert isinstance(space.module(chain[1], 5), InvertedResidual) and chain[0] == FixedPart("first")


def test_measured_widths_hold_every_step_of_the_staircase():
    """Measured widths are both ends, the multiples of a group, and one channel beyond each."""
    assert measured_widths(8, 16, 4) == [8, 9, 12, 13, 16]
    assert measured_widths(10, 15, 4) == [10, 12, 13, 15]
    assert measured_widths(8, 9, 16) == [8, 9]
