"""A latency table: every architecture's sum of pieces, written to a file and read back, wrong files refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.cost import latency
from nas.cost.latency import Block, Entry, Head, LatencyTable, Stem, distinct, load, load_cost_table, pieces
from nas.sampling.exact import ExactSampler
from nas.spaces import encoding
from nas.spaces.mbconv import Arch, StageArch


@pytest.fixture(scope="module")
def table(tiny_space) -> LatencyTable:
    """Latencies that no two pieces share."""
    random = np.random.default_rng(3)
    entries = {piece: Entry(round(random.uniform(0.01, 0.2), 5), 0.02, 40) for piece in distinct(tiny_space)}
    return LatencyTable(tiny_space, 5, entries, 0.05, {"device": "toy", "backend": "torch", "threads": 1, "batch": 1})


@pytest.fixture
def file(table, tmp_path):
    table.save(tmp_path / "table.json")
    return tmp_path / "table.json"


def edit(file, change) -> None:
    found = json.loads(file.read_text())
    change(found)
    file.write_text(json.dumps(found))


def test_the_pieces_of_an_architecture(tiny_space):
    """20 px halve in the stem and in mb2: sides 10, 10 and 5, a first block and later ones a stage, each later one alike."""
    arch = Arch(20, 8, (StageArch(16, 2, 5, 1), StageArch(24, 3, 3, 2)), 32)
    assert pieces(tiny_space, arch) == [
        Stem(20, 8),
        Block("mb1", True, 10, 8, 16, 5, 1),
        Block("mb1", False, 10, 16, 16, 5, 1),
        Block("mb2", True, 10, 16, 24, 3, 2),
        Block("mb2", False, 5, 24, 24, 3, 2),
        Block("mb2", False, 5, 24, 24, 3, 2),
        Head(5, 24, 32),
    ]


def test_distinct_pieces_are_those_of_all_architectures(tiny_space, tiny_rows):
    """Each once, and none that no architecture has: by listing all 2304."""
    found = distinct(tiny_space)
    assert len(found) == len(set(found))
    assert set(found) == {piece for arch in encoding.from_genes(tiny_rows) for piece in pieces(tiny_space, arch)}


def test_the_cost_is_the_sum_of_the_pieces(table, tiny_rows):
    """For all 2304 architectures, added up one by one."""
    costs = table.cost_table()
    expected = [
        table.fixed_latency_ms + sum(table.entries[piece].latency_ms for piece in pieces(table.space, arch))
        for arch in encoding.from_genes(tiny_rows)
    ]
    np.testing.assert_allclose(costs.costs(tiny_rows), expected, rtol=1e-12)
    assert (costs.smallest, costs.largest) == (pytest.approx(min(expected)), pytest.approx(max(expected)))
    assert costs.unit == "ms"


def test_a_target_outside_is_refused_with_both_ends(table):
    """25 asked for where networks take less than 2 ms: a target in another unit."""
    costs = table.cost_table()
    with pytest.raises(ValueError, match=rf"between 25 and 26 ms.*range is {costs.smallest:.6g} to {costs.largest:.6g} ms"):
        costs.check_between(25, 26)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 0.9), st.integers(0, 2**31))
def test_exact_sampling_takes_latency(table, share, seed):
    """Everything drawn under a latency bound has a latency within it."""
    costs = table.cost_table()
    low = costs.smallest + share * (costs.largest - costs.smallest)
    high = low + 0.1 * (costs.largest - costs.smallest)
    drawn = ExactSampler(costs, 0.05, bins=500).draw_between(low, high, 20, np.random.default_rng(seed))
    assert ((low <= costs.costs(drawn.rows)) & (costs.costs(drawn.rows) <= high)).all()


def test_a_file_gives_the_table_back(table, file):
    """Entries, fixed part and setting; as a cost table too."""
    found = load(file, table.space, 5)
    assert (found.entries, found.fixed_latency_ms, found.setting) == (table.entries, table.fixed_latency_ms, table.setting)
    assert np.array_equal(load_cost_table(file, table.space, 5).head, table.cost_table().head)


def test_units_are_in_the_names(file):
    """Every key of the file that tells a latency ends in latency_ms; each piece is a line that a person can read."""

    def keys(found):
        inner = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
        return set(found if isinstance(found, dict) else ()).union(*map(keys, inner))

    assert {k for k in keys(json.loads(file.read_text())) if "latency" in k} == {"latency_ms", "fixed_latency_ms"}
    assert any(line.strip().startswith('{"part": "stem", "side": 16, "width": 8, "latency_ms": ') for line in file.read_text().splitlines())


def test_a_missing_file_says_how_to_get_one(table, tmp_path):
    """It names the stage."""
    with pytest.raises(FileNotFoundError, match="dvc repro latency"):
        load(tmp_path / "none.json", table.space, 5)


@pytest.mark.parametrize("text", ["", '{"format": ', "[]", '{"format": "other"}', '{"format": "latency table 1"}'])
def test_a_damaged_file_is_refused(table, file, text):
    """Empty, cut off, not a table, another format, keys missing: the message names the file and how to measure again."""
    file.write_text(text)
    with pytest.raises(ValueError, match=r"table\.json.*measure again: dvc repro -f latency"):
        load(file, table.space, 5)


def test_another_space_is_refused_and_what_differs_named(table, file):
    """A head width was added since."""
    other = replace(table.space, head_widths=(32, 48, 64))
    with pytest.raises(ValueError, match=r"space 'tiny'.*differ in \['head_widths'\]"):
        load(file, other, 5)


def test_another_number_of_classes_is_refused(table, file):
    """The classifier is part of the head."""
    with pytest.raises(ValueError, match="measured with 5 classes, not 10"):
        load(file, table.space, 10)


def test_another_unit_is_refused(table, file):
    """Seconds taken for milliseconds is the mistake that users of other releases made."""

    def seconds(found):
        for entry in found["entries"]:
            entry["latency_s"] = entry.pop("latency_ms") / 1000

    edit(file, seconds)
    with pytest.raises(ValueError, match=r"entries\[0\] has no latency_ms, but latency_s: another unit"):
        load(file, table.space, 5)


@pytest.mark.parametrize("value", [-0.1, 0, float("nan")])
def test_impossible_latencies_are_refused(table, file, value):
    """Other releases have tables with negative entries."""
    edit(file, lambda found: found["entries"][3].update(latency_ms=value))
    with pytest.raises(ValueError, match=r"damaged.*a positive number is needed"):
        load(file, table.space, 5)


def test_a_missing_piece_is_named(table, file):
    """The first of them, and how many there are."""
    edit(file, lambda found: found["entries"].pop(0))
    with pytest.raises(ValueError, match=r"no latency of Stem\(side=16, width=8\) \(1 of the pieces"):
        load(file, table.space, 5)


def test_a_stage_of_single_blocks_has_no_later_ones(tiny_space):
    """Depth 1 only: nothing that never runs is measured or asked for."""
    single = replace(tiny_space, stages=tuple(replace(s, depths=(1,)) for s in tiny_space.stages))
    found = distinct(single)
    assert all(piece.first for piece in found if isinstance(piece, Block))
    costs = LatencyTable(single, 2, dict.fromkeys(found, Entry(1.0, 0.0, 1)), 0.0).cost_table()
    assert costs.smallest == costs.largest == 4  # stem, two blocks, head


def test_the_module_needs_no_torch():
    """Whoever searches under latency loads a table without what measured it."""
    assert "torch" not in vars(latency)
