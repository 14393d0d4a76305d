"""The list of costs: what a search may minimise, bound and aim at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nas.cost import flops, latency_mbconv, registry
from nas.cost.infeasible import InfeasibleTarget
from nas.cost.latency import Entry
from nas.cost.latency_mbconv import MBConvLatencyTable, distinct_blocks

ROOT = Path(__file__).parents[2]
ENERGY = '''
"""Energy of every architecture: 4.6 pJ per multiply-accumulate and 640 pJ per image pixel."""

from dataclasses import replace

import numpy as np

from nas.cost import flops


def table(space, classes):
    macs = flops.table(space, classes)
    stages = tuple(4.6e-9 * stage for stage in macs.stages)
    pixels = np.array(space.resolutions)[:, None] ** 2
    return replace(macs, unit="mJ", per_unit=1, stem=4.6e-9 * macs.stem + 6.4e-7 * pixels, stages=stages, head=4.6e-9 * macs.head)
'''
SEARCH = """
import json
import sys
from types import ModuleType

import energy
import yaml

text = open("nas/cost/registry.py").read()  # with one more entry
last = text.index('        Cost("latency_ms"')
registry = sys.modules["nas.cost.registry"] = ModuleType("nas.cost.registry")
registry.energy = energy
exec(text[:last] + '        Cost("energy_mj", "mJ", "energy, mJ", energy.table),\\n' + text[last:], vars(registry))

from nas.runtime import params
from nas.sampling.uniform import Unconstrained
from nas.search import loop
from nas.search.evolution import Evolution
from nas.search.problem import Problem, cost_objective, score_objective
from nas.spaces import mbconv
from nas.stages.search import Search

space = mbconv.load("nas/spaces/smoke.yaml")
section = yaml.safe_load(open("params.yaml"))["search"]
section |= {"costs": ["energy_mj"], "models": None, "targets": [{"energy_mj": 0.01}], "bounds": {"energy_mj": {"max": 0.01}}}
section["evolution"] |= {"bucket": 0.001}
cfg = params.check({"search": section}, "search", Search)
tables = registry.tables(space, 10, {})
problem = Problem(space, (cost_objective("energy_mj", tables["energy_mj"], high=cfg.bounds.energy_mj.max), score_objective()))
method = Evolution(cfg.evolution, Unconstrained(space))
archive = loop.search(method, problem, score=lambda archs: [tables["mflops"].cost(arch) for arch in archs], seed=0)
front = archive[problem.front(archive)]
print(json.dumps({"costs": list(tables), "energy": front.cost.tolist(), "columns": list(problem.to_frame(front))}))
"""


def test_a_cost_is_added_with_one_module_and_one_entry(tmp_path):
    """Parameters name `energy_mj` as objective, bound and target, and a search minimises it."""
    (tmp_path / "energy.py").write_text(ENERGY)
    (tmp_path / "search.py").write_text(SEARCH)
    command = [sys.executable, str(tmp_path / "search.py")]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": f"{ROOT}:{tmp_path}"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["costs"] == ["mflops", "parameters", "energy_mj"] and "energy_mj" in result["columns"]
    assert len(result["energy"]) > 1 and result["energy"] == sorted(result["energy"]) and result["energy"][-1] <= 0.01


def test_a_cost_from_a_file_needs_the_file(tiny_space, tmp_path):
    """Latency is among the tables only if the section names a table; its values are those of the file."""
    table = MBConvLatencyTable(tiny_space, 5, dict.fromkeys(distinct_blocks(tiny_space), Entry(1.0, 0.0)), 0.5)
    table.save(tmp_path / "table.json")
    assert list(registry.tables(tiny_space, 5, {"latency_table": None})) == ["mflops", "parameters"]
    tables = registry.tables(tiny_space, 5, {"latency_table": str(tmp_path / "table.json")})
    assert list(tables) == list(registry.COSTS)
    assert tables["latency_ms"].cost(tiny_space.smallest()) == table.latency_ms(tiny_space.smallest())
    with pytest.raises(FileNotFoundError, match="dvc repro -f latency measures one"):
        latency_mbconv.cost_table(tiny_space, 5, tmp_path / "none.json")


def test_units_are_those_of_the_tables(tiny_space):
    """Each entry states the unit of the table that it builds."""
    for name, table in registry.tables(tiny_space, 5, {}).items():
        assert (registry.COSTS[name].name, registry.COSTS[name].unit) == (name, table.unit)


def test_an_infeasible_target_states_range_and_advice(tiny_space):
    """The message has the target, both ends of the range, the unit and what to change."""
    table = flops.table(tiny_space, 5)
    error = table.infeasible("at most 0.001 MFLOPs", "change params.yaml: search.targets")
    assert isinstance(error, InfeasibleTarget) and (error.low, error.high) == (table.smallest, table.largest)
    assert str(error) == (
        f"no architecture costs at most 0.001 MFLOPs; the achievable range is {table.smallest:.6g} to {table.largest:.6g} MFLOPs; "
        "change params.yaml: search.targets"
    )
