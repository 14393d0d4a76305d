"""The latency table of an MBConv space: every architecture's sum of blocks; its file is read back, and wrong files are refused."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.cost import latency_mbconv
from nas.cost.latency import Entry
from nas.cost.latency_mbconv import Head, MBConvBlock, MBConvLatencyTable, Stem, blocks_of, cost_table, distinct_blocks
from nas.sampling.exact import ExactSampler
from nas.spaces import encoding
from nas.spaces.mbconv import Arch, StageArch


@pytest.fixture(scope="module")
def table(tiny_space) -> MBConvLatencyTable:
    """Latencies that no two blocks share."""
    random = np.random.default_rng(3)
    entries = {block: Entry(round(random.uniform(0.01, 0.2), 5), 0.02, 40) for block in distinct_blocks(tiny_space)}
    return MBConvLatencyTable(tiny_space, 5, entries, 0.05, {"device": "toy", "backend": "torch", "threads": 1, "batch": 1})


@pytest.fixture
def file(table, tmp_path):
    table.save(tmp_path / "table.json")
    return tmp_path / "table.json"


def edit(file, change) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def test_the_blocks_of_an_architecture(tiny_space):
    """20 px halve in the stem and in mb2, to sides 10, 10 and 5; each stage has a first block and equal later ones."""
    arch = Arch(20, 8, (StageArch(16, 2, 5, 1), StageArch(24, 3, 3, 2)), 32)
    assert blocks_of(tiny_space, arch) == [
        Stem(20, 8),
        MBConvBlock("mb1", True, 10, 8, 16, 5, 1),
        MBConvBlock("mb1", False, 10, 16, 16, 5, 1),
        MBConvBlock("mb2", True, 10, 16, 24, 3, 2),
        MBConvBlock("mb2", False, 5, 24, 24, 3, 2),
        MBConvBlock("mb2", False, 5, 24, 24, 3, 2),
        Head(5, 24, 32),
    ]


def test_distinct_blocks_are_those_of_all_architectures(tiny_space, tiny_rows):
    """Each block is listed once, and only blocks of some architecture, by listing all 2304."""
    blocks = distinct_blocks(tiny_space)
    assert len(blocks) == len(set(blocks))
    assert set(blocks) == {block for arch in encoding.from_genes(tiny_rows) for block in blocks_of(tiny_space, arch)}


def test_the_cost_is_the_sum_of_the_blocks(table, tiny_rows):
    """The costs of all 2304 architectures equal sums written out, each block as often as it occurs."""
    costs, archs = table.costs, encoding.from_genes(tiny_rows)
    expected = [table.fixed_latency_ms + sum(table.entries[block].latency_ms for block in blocks_of(table.space, arch)) for arch in archs]
    assert [table.latency_ms(arch) for arch in archs] == expected
    np.testing.assert_allclose(costs.costs(tiny_rows), expected, rtol=1e-12)
    assert (costs.smallest, costs.largest) == (pytest.approx(min(expected)), pytest.approx(max(expected)))
    assert costs.unit == "ms"


def test_a_target_outside_is_refused_with_both_ends(table):
    """A target of 25 ms, where networks take less than 2 ms, is refused: it is in another unit."""
    costs = table.costs
    with pytest.raises(ValueError, match=rf"between 25 and 26 ms.*range is {costs.smallest:.6g} to {costs.largest:.6g} ms"):
        costs.check_between(25, 26)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 0.9), st.integers(0, 2**31))
def test_exact_sampling_takes_latency(table, share, seed):
    """Everything drawn under a latency bound is within it."""
    costs = table.costs
    low = costs.smallest + share * (costs.largest - costs.smallest)
    high = low + 0.1 * (costs.largest - costs.smallest)
    drawn = ExactSampler(costs, 0.05, bins=500).draw_between(low, high, 20, np.random.default_rng(seed))
    assert ((low <= costs.costs(drawn.rows)) & (costs.costs(drawn.rows) <= high)).all()


def test_a_file_gives_the_table_back(table, file):
    """A file holds entries, fixed overhead and setting, and can be read as a cost table."""
    read = MBConvLatencyTable.load(file, table.space, 5)
    assert (read.entries, read.fixed_latency_ms, read.setting) == (table.entries, table.fixed_latency_ms, table.setting)
    assert np.array_equal(cost_table(table.space, 5, file).head, table.costs.head)


def test_a_file_of_version_1_is_read(table, file):
    """Version 1 differs in its name only."""
    edit(file, lambda document: document.update(format="latency table 1"))
    read = MBConvLatencyTable.load(file, table.space, 5)
    assert (read.entries, read.fixed_latency_ms, read.setting) == (table.entries, table.fixed_latency_ms, table.setting)


def test_units_are_in_the_names(file):
    """Every key that holds a latency ends in latency_ms; each block is a line that a person can read."""

    def keys(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return set(value if isinstance(value, dict) else ()).union(*map(keys, inner))

    assert {k for k in keys(json.loads(file.read_text())) if "latency" in k} == {"latency_ms", "fixed_latency_ms"}
    assert any(line.strip().startswith('{"part": "stem", "side": 16, "width": 8, "latency_ms": ') for line in file.read_text().splitlines())


def test_a_missing_file_is_refused_with_the_command_that_measures_one(table, tmp_path):
    """The message names the command."""
    with pytest.raises(FileNotFoundError, match="dvc repro -f latency measures one"):
        MBConvLatencyTable.load(tmp_path / "none.json", table.space, 5)


@pytest.mark.parametrize("text", ["", '{"format": ', "[]", '{"format": "other"}', '{"format": "latency table 1"}'])
def test_a_damaged_file_is_refused(table, file, text):
    """An empty, truncated, incomplete or other file is refused with its name and the command that measures a table."""
    file.write_text(text)
    with pytest.raises(ValueError, match=r"table\.json.*measure again: dvc repro -f latency"):
        MBConvLatencyTable.load(file, table.space, 5)


def test_another_space_is_refused_and_what_differs_named(table, file):
    """The message lists head_widths, which has another choice now."""
    other = replace(table.space, head_widths=(32, 48, 64))
    with pytest.raises(ValueError, match=r"space 'tiny'.*differ in \['head_widths'\]"):
        MBConvLatencyTable.load(file, other, 5)


def test_another_number_of_classes_is_refused(table, file):
    """The classifier belongs to the head, so the number of classes has to agree."""
    with pytest.raises(ValueError, match="measured with 5 classes, not 10"):
        MBConvLatencyTable.load(file, table.space, 10)


def test_another_unit_is_refused(table, file):
    """A table in seconds is refused; users of other releases read one as milliseconds."""

    def seconds(document):
        for entry in document["entries"]:
            entry["latency_s"] = entry.pop("latency_ms") / 1000

    edit(file, seconds)
    with pytest.raises(ValueError, match=r"entries\.0\.stem\.latency_ms is missing, but there is latency_s: another unit"):
        MBConvLatencyTable.load(file, table.space, 5)


@pytest.mark.parametrize(
    ("value", "message"),
    [(-0.1, "greater than 0"), (0, "greater than 0"), (1e10, "less than or equal to 1000000000"), (math.nan, "finite number")],
)
def test_impossible_latencies_are_refused(table, file, value, message):
    """Latencies have to be positive and finite; other releases have tables with negative entries."""
    edit(file, lambda document: document["entries"][3].update(latency_ms=value))
    with pytest.raises(ValueError, match=rf"table\.json: entries\.3\.\w+\.latency_ms: Input should be (a )?{message}"):
        MBConvLatencyTable.load(file, table.space, 5)


def test_a_latency_below_zero_makes_no_table(tiny_space):
    """Tables in memory are checked like files."""
    entries = dict.fromkeys(distinct_blocks(tiny_space), Entry(-1.0, 0.0))
    with pytest.raises(ValueError, match="a positive number is needed"):
        MBConvLatencyTable(tiny_space, 5, entries, 0.0)


def test_a_missing_block_is_named(table, file):
    """The message names the first missing block and their number."""
    edit(file, lambda document: document["entries"].pop(0))
    with pytest.raises(ValueError, match=r"no latency of Stem\(side=16, width=8\) \(1 of the blocks"):
        MBConvLatencyTable.load(file, table.space, 5)


def test_a_stage_of_single_blocks_has_no_later_ones(tiny_space):
    """With depth 1 only, no later block is measured or needed."""
    single = replace(tiny_space, stages=tuple(replace(s, depths=(1,)) for s in tiny_space.stages))
    blocks = distinct_blocks(single)
    assert all(block.first for block in blocks if isinstance(block, MBConvBlock))
    costs = MBConvLatencyTable(single, 2, dict.fromkeys(blocks, Entry(1.0, 0.0)), 0.0).costs
    assert costs.smallest == costs.largest == 4  # stem, two blocks, head


def test_the_module_needs_no_torch():
    """A search under a latency bound loads a table without the profiler."""
    assert "torch" not in vars(latency_mbconv)
