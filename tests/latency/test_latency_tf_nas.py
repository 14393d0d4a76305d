"""A whole survey on a made-up device whose times are known: a microsecond a parameter, so linear in the hidden channels."""

import numpy as np
import pytest
import torch

from nas.cost.latency_file import Block
from nas.cost.latency_tf_nas import operators
from nas.cost.rows import parameters
from nas.latency import validation
from nas.latency.backends.config import Torch
from nas.latency.row_profiler import Given, judged_on, piece_module, survey
from nas.latency.tf_nas import Latency, Surveyed, measured_widths, operator_of
from nas.models.blocks import InvertedResidual, RowNetwork
from nas.models.fuse import fold
from nas.spaces import FOLDER, tf_nas
from tests.differentiable.tf_nas.tiny import TINY, random_choice
from tests.latency.test_latency_profiler import FIXED, SAVED, Memory, Toy

CPU = Torch(runtime="torch", device="cpu", threads=1, channels_last=True)
SETTINGS = Latency(backend=CPU, batch=1, repetitions=4, limit_s=1e6, fitted=4, networks=8, step=4)


class Device(Toy):
    def prepare(self, module: torch.nn.Module, example: int):
        seconds = 1e-6 * sum(p.numel() for p in module.parameters())
        return self.call(seconds + (FIXED if isinstance(module, RowNetwork) else SAVED))


@pytest.fixture(scope="module")
def found():
    device = Device()
    return survey(SETTINGS, Surveyed(TINY, SETTINGS.step), 5, 0, device, Memory(), device.clock)


def test_the_table_is_exact(found):
    """Any network of the space, at widths between the measured ones: its folded parameters in microseconds, and the fixed part."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        choice, _ = random_choice(TINY, rng)
        number = sum(p.numel() for p in fold(RowNetwork(TINY.plan(choice), 5).eval()).parameters())
        assert found.table.latency_ms(choice) == pytest.approx(1000 * FIXED + number / 1000, rel=1e-6)


def test_networks_to_judge_are_judged(found):
    """On the noiseless device without error."""
    rows = judged_on(found, Surveyed(TINY, SETTINGS.step))
    assert len(rows) == SETTINGS.networks
    names = ("predicted_latency_ms", "first_latency_ms", "second_latency_ms", "mflops")
    figures = validation.figures(*(rows[name].to_numpy() for name in names))
    assert figures["p90_relative_error"] < 1e-6 and figures["kendall_tau_latency"] == pytest.approx(1)


def test_a_resumed_survey_goes_on(found):
    """Rounds that are kept are not taken again, and the table is the same."""
    memory, device = Memory(), Device()
    survey(SETTINGS, Surveyed(TINY, SETTINGS.step), 5, 0, device, memory, device.clock)
    again = Device()
    table = survey(SETTINGS, Surveyed(TINY, SETTINGS.step), 5, 0, again, memory, again.clock).table
    assert again.calls < device.calls / 10
    widths = TINY.start_widths()
    np.testing.assert_allclose(table.latencies_ms(widths), found.table.latencies_ms(widths), rtol=1e-9)


@pytest.mark.parametrize("name", ["tf_nas_glyphs.yaml", "tf_nas_efficientnet_b0.yaml"])
def test_chains_hold_every_operator_at_every_width(name):
    """Of the shipped spaces, at both ends of its range and between them."""
    searched = tf_nas.load(FOLDER / name)
    held = {(operator_of(p), p.row.hidden) for chain in Surveyed(searched, 3).chains() for p in chain if isinstance(p, Block)}
    for key, (low, high) in operators(searched).items():
        assert {(key, low), (key, high)} <= held
    assert all(len(chain) == len(searched.layers) + 2 for chain in Surveyed(searched, 3).chains())


def test_pieces_run_one_after_the_other():
    """The pieces of a chain take each other's output, and end in classes."""
    x = torch.randn(2, 3, 8, 8)
    for piece in Surveyed(TINY, 2).chains()[0]:
        x = piece_module(TINY.middle(), 5, piece)(x)
    assert x.shape == (2, 5)


def test_folded_pieces_add_up_to_a_network():
    """In parameters: all pieces of a chain, those of the batch norms' shifts included."""
    chain = Surveyed(TINY, 2).chains()[1]
    plan = TINY.fixed
    pieces = [p.row for p in chain if isinstance(p, Block)]
    whole = parameters(type(plan)(plan.resolution, plan.stem, (*plan.rows, *pieces), plan.head, plan.squeeze), 5)
    scales = plan.stem.width + plan.head.width
    scales += sum((row.hidden != row.c_in) * row.hidden + row.hidden + row.c_out for row in (*plan.rows, *pieces))
    found = sum(q.numel() for piece in chain for q in piece_module(TINY.middle(), 5, piece).parameters())
    assert found == whole - scales and isinstance(piece_module(TINY.middle(), 5, chain[1]), InvertedResidual) and chain[0] == Given("first")


def test_measured_widths_hold_every_stair():
    """Both ends; where a group is full, and one channel beyond."""
    assert measured_widths(8, 16, 4) == [8, 9, 12, 13, 16]
    assert measured_widths(10, 15, 4) == [10, 12, 13, 15]
    assert measured_widths(8, 9, 16) == [8, 9]
