"""Profiling a HardCoRe-NAS space on a made-up device, a microsecond per parameter; its latency table and file."""

import numpy as np
import pytest
import torch

from nas.cost.latency import Entry, LatencyTableError
from nas.cost.latency_hardcore_nas import HardcoreNasLatencyTable, all_blocks
from nas.latency.backends.config import Torch
from nas.latency.hardcore_nas import ProfiledHardcoreNas
from nas.latency.profiler import Profile, profile
from nas.latency.rows import RowLatencyConfig
from nas.models.blocks import RowNetwork
from nas.models.fuse import fold
from nas.spaces import FOLDER, hardcore_nas
from nas.spaces.hardcore_nas import Space
from tests.latency.test_latency_profiler import CALL_S, FIXED_S, Memory, Toy

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
CONFIG = RowLatencyConfig(backend=CPU, batch=1, repetitions=4, limit_s=1e6, fitted=4, networks=8)


class Device(Toy):
    def prepare(self, module: torch.nn.Module, example: int):
        seconds = 1e-6 * sum(p.numel() for p in module.parameters())
        return self.call(seconds + (FIXED_S if isinstance(module, RowNetwork) else CALL_S))


def made_up(space: Space) -> HardcoreNasLatencyTable:
    """Latencies that rise with the number of the block."""
    return HardcoreNasLatencyTable(
        space, 5, {b: Entry(0.1 + i / 7, 0.01) for i, b in enumerate(dict.fromkeys(all_blocks(space).values()))}, 2.5
    )


@pytest.fixture(scope="module")
def profiled() -> Profile:
    device = Device()
    return profile(CONFIG, ProfiledHardcoreNas(SMALL), 5, 0, device, Memory())


def test_the_table_is_exact(profiled):
    """Any network takes a microsecond per folded parameter and the fixed overhead."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        arch = SMALL.random(rng)
        number = sum(p.numel() for p in fold(RowNetwork(SMALL.plan(arch), 5).eval()).parameters())
        assert profiled.table.latency_ms(arch) == pytest.approx(1000 * FIXED_S + number / 1000, rel=1e-6)


def test_validation_on_a_noiseless_device_has_no_error(profiled):
    """The table predicts all validation networks, none of which is in the fit."""
    rows = profiled.validation()
    assert len(rows) == CONFIG.networks
    assert rows["predicted_latency_ms"].to_numpy() == pytest.approx(rows["first_latency_ms"].to_numpy(), rel=1e-6)
    assert len(set(profiled.archs)) == CONFIG.networks + CONFIG.fitted


def test_a_resumed_run_measures_no_saved_round_again(profiled):
    """The table of the resumed run is the same."""
    memory, first, second = Memory(), Device(), Device()
    profile(CONFIG, ProfiledHardcoreNas(SMALL), 5, 0, first, memory)
    resumed = profile(CONFIG, ProfiledHardcoreNas(SMALL), 5, 0, second, memory).table
    assert second.calls < first.calls / 10
    np.testing.assert_allclose(resumed.expected.blocks_ms, profiled.table.expected.blocks_ms, rtol=1e-9)


@pytest.mark.parametrize("space", [SMALL, GLYPHS, hardcore_nas.load(FOLDER / "hardcore_nas.yaml")], ids=lambda s: s.name)
def test_chains_hold_every_block(space):
    """There are as many chains as configurations."""
    chains = ProfiledHardcoreNas(space).chains()
    assert set(all_blocks(space).values()) <= {block for chain in chains for block in chain}
    assert len(chains) == len(space.configurations)


def test_blocks_of_a_chain_take_each_others_output():
    """A chain goes from images to classes, through inputs of the stated sides."""
    x, space = torch.randn(2, 3, 24, 24), ProfiledHardcoreNas(SMALL)
    for block in space.chains()[1]:
        assert getattr(block, "side", x.shape[-1]) == x.shape[-1]
        x = space.module(block, 5)(x)
    assert x.shape == (2, 5)


def test_latency_is_the_sum_of_the_blocks():
    """The latency equals the fixed overhead and the entries, looked up one by one."""
    table = made_up(GLYPHS)
    arch = hardcore_nas.Arch(((3, 0), (11,), (5, 5, 7)))
    blocks = all_blocks(GLYPHS)
    places = [(0, 0, 3), (0, 1, 0), (1, 0, 11), (2, 0, 5), (2, 1, 5), (2, 2, 7)]
    assert table.latency_ms(arch) == pytest.approx(2.5 + sum(table.entries[blocks[p]].latency_ms for p in places))


def test_a_table_is_read_as_it_was_written(tmp_path):
    """A file holds six digits and the setting of the measurement."""
    written = HardcoreNasLatencyTable(SMALL, 5, made_up(SMALL).entries, 2.5, {"device": "toy", "batch": 1})
    written.save(tmp_path / "table.json")
    read = HardcoreNasLatencyTable.load(tmp_path / "table.json", SMALL, 5)
    np.testing.assert_allclose(read.expected.blocks_ms, written.expected.blocks_ms, rtol=1e-5)
    assert read.fixed_latency_ms == 2.5
    assert read.setting == {"device": "toy", "batch": 1}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"classes": 5', '"classes": 6', "measured with 6 classes, not 5"),
        ('"resolution": 24', '"resolution": 32', r"not for 'small' as it is now \(they differ in \['resolution'\]\)"),
        ('"latency_ms": 0.1,', '"latency_ms": -0.1,', "latency_ms: Input should be greater than 0"),
        ('"latency_ms": 0.1,', '"latency_s": 0.1,', "entries.0.latency_ms is missing, but there is latency_s: another unit"),
        ('"latency table of blocks 2"', '"something else"', "format"),
        ('"side": 12, "c_in": 8, "hidden": 16, "se": 0', '"side": 13, "c_in": 8, "hidden": 16, "se": 0', "no latency of RowBlock"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, old, new, message):
    """A file of something else, in another unit or incomplete is refused by name."""
    text = made_up(SMALL).to_json()
    assert old in text
    (tmp_path / "table.json").write_text(text.replace(old, new, 1))
    with pytest.raises(LatencyTableError, match=message) as error:
        HardcoreNasLatencyTable.load(tmp_path / "table.json", SMALL, 5)
    assert "table.json" in str(error.value)


def test_a_missing_table_is_refused_with_the_command_that_measures_one(tmp_path):
    """The message names `dvc repro -f`."""
    with pytest.raises(FileNotFoundError, match=r"dvc repro -f .*measures one of this device"):
        HardcoreNasLatencyTable.load(tmp_path / "table.json", SMALL, 5)
