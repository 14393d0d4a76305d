"""nas.latency.hardcore_nas and .table: a made-up device whose times are known, a microsecond a parameter."""

import numpy as np
import pytest
import torch

from nas.cost import latency_hardcore_nas
from nas.cost.latency_file import LatencyTableError
from nas.cost.latency_hardcore_nas import LatencyTable, Measured, all_blocks
from nas.latency.backends.config import Torch
from nas.latency.hardcore_nas import Surveyed
from nas.latency.row_profiler import Latency, judged_on, piece_module, survey
from nas.models.blocks import RowNetwork
from nas.models.fuse import fold
from nas.spaces import FOLDER, hardcore_nas
from nas.spaces.hardcore_nas import Space
from tests.latency.test_latency_profiler import FIXED, SAVED, Memory, Toy

GLYPHS = hardcore_nas.load(FOLDER / "hardcore_nas_glyphs.yaml")
SMALL = Space.model_validate(
    {
        **GLYPHS.model_dump(),
        "name": "small",
        "stages": GLYPHS.model_dump()["stages"][:2],
        "kernels": (3,),
        "expansions": (2, 3),
        "head": {"width": 16, "mix": 16, "act": "ReLU"},
    }
)
CPU = Torch(runtime="torch", device="cpu", threads=1, channels_last=True)
SETTINGS = Latency(backend=CPU, batch=1, repetitions=4, limit_s=1e6, fitted=4, networks=8)


class Device(Toy):
    def prepare(self, module: torch.nn.Module, example: int):
        seconds = 1e-6 * sum(p.numel() for p in module.parameters())
        return self.call(seconds + (FIXED if isinstance(module, RowNetwork) else SAVED))


def made_up(searched: Space) -> LatencyTable:
    """Milliseconds by the number of a block."""
    return LatencyTable(
        searched, 5, {b: Measured(0.1 + i / 7, 0.01) for i, b in enumerate(dict.fromkeys(all_blocks(searched).values()))}, 2.5
    )


@pytest.fixture(scope="module")
def found():
    device = Device()
    return survey(SETTINGS, Surveyed(SMALL), 5, 0, device, Memory(), device.clock)


def test_the_table_is_exact(found):
    """Any network of the space: its folded parameters in microseconds, and the fixed part."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        arch = SMALL.random(rng)
        number = sum(p.numel() for p in fold(RowNetwork(SMALL.plan(arch), 5).eval()).parameters())
        assert found.table.latency_ms(arch) == pytest.approx(1000 * FIXED + number / 1000, rel=1e-6)


def test_networks_to_judge_are_judged(found):
    """On the noiseless device without error; none of them was fitted on."""
    rows = judged_on(found, Surveyed(SMALL))
    assert len(rows) == SETTINGS.networks
    assert rows["predicted_latency_ms"].to_numpy() == pytest.approx(rows["first_latency_ms"].to_numpy(), rel=1e-6)
    assert len(set(found.networks)) == SETTINGS.networks + SETTINGS.fitted


def test_a_resumed_survey_goes_on(found):
    """Rounds that are kept are not taken again, and the table is the same."""
    memory, device = Memory(), Device()
    survey(SETTINGS, Surveyed(SMALL), 5, 0, device, memory, device.clock)
    again = Device()
    resumed = survey(SETTINGS, Surveyed(SMALL), 5, 0, again, memory, again.clock).table
    assert again.calls < device.calls / 10
    np.testing.assert_allclose(resumed.latency().blocks_ms, found.table.latency().blocks_ms, rtol=1e-9)


@pytest.mark.parametrize("searched", [SMALL, GLYPHS, hardcore_nas.load(FOLDER / "hardcore_nas.yaml")], ids=lambda s: s.name)
def test_chains_hold_every_block(searched):
    """As many chains as configurations."""
    held = {piece for chain in Surveyed(searched).chains() for piece in chain}
    assert set(all_blocks(searched).values()) <= held
    assert len(Surveyed(searched).chains()) == len(searched.configurations)


def test_pieces_run_one_after_the_other():
    """The pieces of a chain take each other's output, of the side that is stated, and end in classes."""
    x = torch.randn(2, 3, 24, 24)
    for piece in Surveyed(SMALL).chains()[1]:
        assert getattr(piece, "side", x.shape[-1]) == x.shape[-1]
        x = piece_module(SMALL.plan(SMALL.largest()), 5, piece)(x)
    assert x.shape == (2, 5)


def test_a_network_takes_the_sum_of_its_blocks():
    """Entries looked up one by one."""
    found = made_up(GLYPHS)
    arch = hardcore_nas.Arch(((3, 0), (11,), (5, 5, 7)))
    blocks = all_blocks(GLYPHS)
    places = [(0, 0, 3), (0, 1, 0), (1, 0, 11), (2, 0, 5), (2, 1, 5), (2, 2, 7)]
    assert found.latency_ms(arch) == pytest.approx(2.5 + sum(found.blocks[blocks[p]].latency_ms for p in places))


def test_a_table_is_read_as_it_was_written(tmp_path):
    """To six digits; what it was measured with is kept."""
    written = LatencyTable(SMALL, 5, made_up(SMALL).blocks, 2.5, {"device": "toy", "batch": 1})
    written.save(tmp_path / "table.json")
    read = latency_hardcore_nas.load(tmp_path / "table.json", SMALL, 5)
    np.testing.assert_allclose(read.latency().blocks_ms, written.latency().blocks_ms, rtol=1e-5)
    assert read.given_latency_ms == 2.5
    assert read.setting == {"device": "toy", "batch": 1}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"classes": 5', '"classes": 6', "measured with 6 classes, not 5"),
        ('"resolution": 24', '"resolution": 32', "which is not 'small' as it is now"),
        ('"latency_ms": 0.1,', '"latency_ms": -0.1,', "latency_ms: Input should be greater than 0"),
        ('"latency_ms": 0.1,', '"latency_s": 0.1,', "latency_ms: Field required"),
        ('"latency table of blocks 1"', '"something else"', "format"),
        ('"side": 12, "c_in": 8, "hidden": 16, "se": 0', '"side": 13, "c_in": 8, "hidden": 16, "se": 0', "no latency of Block"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, old, new, message):
    """Of something else, in another unit, incomplete: the file is named."""
    text = made_up(SMALL).to_json()
    assert old in text
    (tmp_path / "table.json").write_text(text.replace(old, new, 1))
    with pytest.raises(LatencyTableError, match=message) as error:
        latency_hardcore_nas.load(tmp_path / "table.json", SMALL, 5)
    assert "table.json" in str(error.value)


def test_a_missing_table_is_named(tmp_path):
    """With what to do."""
    with pytest.raises(FileNotFoundError, match=r"dvc repro -f .*measures one of this device"):
        latency_hardcore_nas.load(tmp_path / "table.json", SMALL, 5)
