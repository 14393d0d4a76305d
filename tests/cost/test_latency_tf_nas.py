"""The latency table of a TF-NAS space: interpolation, expected latency, its file."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.cost import latency_hardcore_nas, latency_tf_nas
from nas.cost.latency import Entry, LatencyTableError
from nas.cost.latency_tf_nas import Curve, operator, operators
from nas.differentiable.tf_nas.architecture import (
    ArchitectureParameters,
    expected_latency_ms,
    gumbel_softmax,
    sample_path,
    sample_second_path,
)
from nas.spaces import FOLDER, hardcore_nas, tf_nas
from nas.spaces.tf_nas import Arch, Space
from tests.differentiable.tf_nas.tiny import TINY, random_arch, random_table


def test_a_network_by_hand():
    """Two layers of known curves and the fixed overhead sum to the latency."""
    table = random_table(TINY)
    first, second = operator(TINY, 0, 0), operator(TINY, 2, 1)
    curves = dict(table.entries)
    curves[first] = Curve(hidden=(8, 16), latency_ms=(1.0, 3.0), spread=(0.0, 0.0))
    curves[second] = Curve(hidden=(16, 24, 32), latency_ms=(2.0, 5.0, 6.0), spread=(0.0, 0.0, 0.0))
    table = replace(table, entries=curves)
    choice = Arch((0, 0, 1, 0, 0), (1, 1), (12, 8, 22, 12, 12))
    assert table.latency_ms(choice) == pytest.approx(1.5 + 2.0 + 4.25)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_interpolated_latencies_are_within_the_measured_range(seed):
    """Interpolated latencies are within the measured range of their operator, so never below zero."""
    table, rng = random_table(TINY, seed), np.random.default_rng(seed)
    _, widths = random_arch(TINY, rng)
    for (i, o), ms in np.ndenumerate(table.latencies_ms(widths)):
        curve = table.entries[operator(TINY, i, o)]
        assert min(curve.latency_ms) <= ms <= max(curve.latency_ms)


def test_nothing_is_extrapolated():
    """Hidden channels outside the measured range are refused, on both sides."""
    curve = Curve(hidden=(8, 16), latency_ms=(1.0, 3.0), spread=(0.0, 0.0))
    for hidden in (7, 17):
        with pytest.raises(ValueError, match="known from 8 to 16"):
            curve.at(np.array([hidden]))


def test_range_is_that_of_all_networks():
    """The range equals the extremes over all networks with widths wherever a curve can bend."""
    small = Space.model_validate(TINY.model_dump() | {"stages": TINY.stages[:1]})
    table = random_table(small, 3)
    low, high = small.bounds()
    options = [
        [
            (o, int(h))
            for o in range(3)
            for h in {low[i, o], high[i, o], *table.entries[operator(small, i, o)].hidden}
            if low[i, o] <= h <= high[i, o]
        ]
        for i in range(2)
    ]
    found = [table.latency_ms(Arch((a[0], b[0]), (depth,), (a[1], b[1]))) for a, b in itertools.product(*options) for depth in (1, 2)]
    assert table.range_ms == pytest.approx((min(found), max(found)))


def test_one_hot_weights_expect_the_networks_latency():
    """With all weight on one network the expectation is the table's sum for it."""
    table, rng = random_table(TINY), np.random.default_rng(1)
    for _ in range(20):
        choice, widths = random_arch(TINY, rng)
        one_hot = torch.eye(3, dtype=torch.float64)[list(choice.operations)]
        sinks = [torch.eye(s.depth, dtype=torch.float64)[d - 1] for s, d in zip(TINY.stages, choice.depths)]
        times = torch.from_numpy(table.latencies_ms(widths))
        assert expected_latency_ms(one_hot, sinks, times, 1.5).item() == pytest.approx(table.latency_ms(choice), rel=1e-12)


def test_expectation_is_the_mean_over_all_networks():
    """Weighted by the probability that operations and depths are drawn: listed one by one."""
    small = Space.model_validate(TINY.model_dump() | {"stages": TINY.stages[:1]})
    table, rng = random_table(small), np.random.default_rng(2)
    _, widths = random_arch(small, rng)
    parameters = ArchitectureParameters(small).double()
    with torch.no_grad():
        parameters.alpha.copy_(torch.from_numpy(rng.normal(size=(2, 3))))
        parameters.beta[0].copy_(torch.from_numpy(rng.normal(size=2)))
    p, q = parameters.operations().tolist(), parameters.sinks()[0].tolist()
    mean = sum(
        p[0][a] * p[1][b] * q[d - 1] * table.latency_ms(Arch((a, b), (d,), (int(widths[0, a]), int(widths[1, b]))))
        for a, b, d in itertools.product(range(3), range(3), (1, 2))
    )
    found = expected_latency_ms(parameters.operations(), parameters.sinks(), torch.from_numpy(table.latencies_ms(widths)), 1.5)
    assert found.item() == pytest.approx(mean, rel=1e-12)


def test_gradient_of_the_expected_latency():
    """In alpha and beta equal to finite differences, in float64."""
    table, rng = random_table(TINY), np.random.default_rng(0)
    times = torch.from_numpy(table.latencies_ms(random_arch(TINY, rng)[1]))
    alpha = torch.from_numpy(rng.normal(size=(5, 3))).requires_grad_()
    betas = [torch.from_numpy(rng.normal(size=stage.depth)).requires_grad_() for stage in TINY.stages]

    def expected(alpha, *betas):
        return expected_latency_ms(alpha.softmax(1), [beta.softmax(0) for beta in betas], times, 1.5)

    assert torch.autograd.gradcheck(expected, (alpha, *betas), eps=1e-6, atol=1e-8, rtol=1e-6)


def test_projection_changes_no_weight():
    """log_softmax of the parameters has the same softmax, and is its own projection."""
    parameters = ArchitectureParameters(TINY).double()
    with torch.no_grad():
        parameters.alpha.copy_(torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5)
    before = parameters.operations().detach().clone()
    parameters.project()
    torch.testing.assert_close(parameters.operations(), before, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(parameters.alpha.exp().sum(1), torch.ones(5, dtype=torch.float64), rtol=1e-12, atol=0)


def test_drawn_paths_follow_alpha():
    """Frequencies of 20,000 draws within five standard errors of the softmax."""
    alpha, rng = torch.tensor([[0.0, 1.0, 2.0]]), np.random.default_rng(0)
    counts = np.bincount([sample_path(alpha, rng)[0] for _ in range(20_000)], minlength=3) / 20_000
    expected = alpha.softmax(1)[0].numpy()
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected * (1 - expected) / 20_000)).all()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(0, 1000))
def test_the_second_path_shares_nothing_with_the_first(path, seed):
    """Another operation in every layer."""
    other = sample_second_path(np.array(path), 4, np.random.default_rng(seed))
    assert (other != path).all() and ((other >= 0) & (other < 4)).all()


def test_the_second_path_prefers_none():
    """Each of the other operations alike, within five standard errors."""
    rng = np.random.default_rng(0)
    counts = np.bincount(np.concatenate([sample_second_path(np.array([1] * 100), 4, rng) for _ in range(200)]), minlength=4) / 20_000
    assert counts[1] == 0 and np.abs(counts[[0, 2, 3]] - 1 / 3).max() < 5 * np.sqrt(2 / 9 / 20_000)


def test_soft_mixture_hardens_as_it_cools():
    """Rows add up to 1; at a low temperature the strongest of alpha plus noise takes all."""
    alpha = torch.tensor([[0.3, -1.0, 0.5], [0.0, 0.0, 0.0]], requires_grad=True)
    cold = gumbel_softmax(alpha, 1e-4, np.random.default_rng(3))
    assert cold.argmax(1).tolist() == sample_path(alpha, np.random.default_rng(3)).tolist()
    torch.testing.assert_close(cold.max(1).values, torch.ones(2))
    torch.testing.assert_close(gumbel_softmax(alpha, 5.0, np.random.default_rng(3)).sum(1), torch.ones(2))


def test_a_table_comes_back_from_its_file(tmp_path):
    """To six digits, with its setting."""
    table = random_table(TINY)
    table.save(tmp_path / "table.json")
    read = latency_tf_nas.TfNasLatencyTable.load(tmp_path / "table.json", TINY, 5)
    widths = TINY.start_widths()
    np.testing.assert_allclose(read.latencies_ms(widths), table.latencies_ms(widths), rtol=1e-5)
    assert read.setting == table.setting and read.fixed_latency_ms == table.fixed_latency_ms


@pytest.mark.parametrize(("kind", "load"), [("tf_nas", tf_nas.load), ("hardcore_nas", hardcore_nas.load)])
def test_files_of_version_1_are_read(kind, load, tmp_path):
    """Version 1 has fixed_latency_ms, and curves or blocks; a table reads the same in both versions."""
    space = load(FOLDER / f"{kind}_glyphs.yaml")
    table = {"tf_nas": latency_tf_nas.TfNasLatencyTable, "hardcore_nas": latency_hardcore_nas.HardcoreNasLatencyTable}[kind]
    if kind == "tf_nas":
        written, old = random_table(space), {"fixed_latency_ms": "fixed_latency_ms", "entries": "curves"}
    else:
        blocks = dict.fromkeys(latency_hardcore_nas.all_blocks(space).values(), Entry(1.5, 0.1))
        written, old = table(space, 5, blocks, 0.5, {"batch": 1}), {"fixed_latency_ms": "fixed_latency_ms", "entries": "blocks"}
    document = {old.get(key, key): value for key, value in json.loads(written.to_json()).items()}
    (tmp_path / "table.json").write_text(json.dumps(document | {"format": f"{table.NAME} 1"}))
    read = table.load(tmp_path / "table.json", space, 5)
    assert (json.loads(read.to_json()), read.setting) == (json.loads(written.to_json()), written.setting)


def _without_unit(found):
    found["entries"][0]["latency"] = found["entries"][0].pop("latency_ms")


def _negative(found):
    found["entries"][0]["latency_ms"][0] = -0.1


def _incomplete(found):
    found["entries"].pop()


def _other_space(found):
    found["space"]["resolution"] = 16


def _other_classes(found):
    found["classes"] = 6


@pytest.mark.parametrize("spoil", [_without_unit, _negative, _incomplete, _other_space, _other_classes])
def test_wrong_tables_are_refused(tmp_path, spoil):
    """The message has the file's name and the command that measures a table."""
    path = tmp_path / "table.json"
    found = json.loads(random_table(TINY).to_json())
    spoil(found)
    path.write_text(json.dumps(found))
    with pytest.raises(LatencyTableError, match=r"table\.json.*dvc repro -f"):
        latency_tf_nas.TfNasLatencyTable.load(path, TINY, 5)


def test_operators_of_the_papers_space_cover_both_ranges():
    """Without squeeze-and-excitation the narrow and the wide operation of a kernel are one, from twice to eight times."""
    found = operators(tf_nas.load(FOLDER / "tf_nas_efficientnet_b0.yaml"))
    assert len(found) == 6 * 11  # a first and a later place a stage, the last stage one only
    assert found[latency_tf_nas.Operator(112, 16, 0, 24, 3, 2, "ReLU")] == (32, 128)
    assert found[latency_tf_nas.Operator(112, 16, 16, 24, 3, 2, "ReLU")] == (32, 64)
