"""Stage search: evolution under FLOPs, the Pareto family, random search with the same budget beside it.

AttentiveNAS (arXiv:2011.09011), sections 4.2 and 4.5. The search scores with the final weights, or
with those of an early epoch where the search pictures were trained on too (`search.weights`).

params   params.yaml: seed, space, runtime, evaluation, search
reads    outputs/split/, outputs/train/weights.safetensors, early.safetensors
writes   outputs/search/evaluated.parquet   one column a gene, mflops, top1 (percent, part `search`), round, method
         outputs/search/family.json         name, arch, mflops, parameters, top1_search, top1_monitor (percent, final weights)
         outputs/search/family/             <name>.safetensors: calibrated networks with the final weights
         outputs/search/metrics.json        {"evaluations", "hypervolume", "top1_low", "top1_best", "hypervolume_random", "family"}
"""

from typing import Annotated, Literal, Self

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator

from nas import encoding, params
from nas.checkpoint import Checkpoint, load_weights, save_weights
from nas.cost import flops
from nas.cost.table import CostTable
from nas.data import loader
from nas.evaluation.evaluate import Scorer
from nas.progress import progress
from nas.sampling.flops import ExactSampler
from nas.sampling.uniform import Unconstrained
from nas.search import evolution
from nas.search.evolution import Bounds, Evaluated
from nas.search.family import Member, family, figures, hypervolume
from nas.space import Arch
from nas.stages import common, split
from nas.stages.errors import user_errors
from nas.supernet.extract import Network
from nas.tracking import StageRun

OUT = common.OUTPUTS / "search"
TRAINED = common.OUTPUTS / "train"
BUCKETS = 64  # of the exact sampler that draws under bounds


class Search(params.Section):
    """Section `search`."""

    weights: Literal["early", "final"]
    min_mflops: Annotated[float, Field(ge=0)] | None  # null: no bound
    max_mflops: Annotated[float, Field(gt=0)] | None
    members: Annotated[int, Field(ge=1)] | None  # of the family, or
    targets_mflops: tuple[float, ...] | None  # a budget for each member
    evolution: evolution.Settings
    register_models: bool  # the family in MLflow's model registry

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if (self.members is None) == (self.targets_mflops is None):
            raise ValueError("either members or targets_mflops is needed, and not both")
        return self


def main() -> None:
    p = params.read("search", Search)
    _, runtime, evaluation = common.shared()
    seed, space = common.seed(), common.search_space()
    sections = {"seed": seed, "space": space.name, "runtime": runtime, "evaluation": evaluation, "search": p}
    with common.stage("search", sections) as (run, checkpoint):
        device = runtime.start()
        data = loader.read(split.OUT)
        table = flops.table(space, len(data.classes))
        bounds = limits(p, table)
        supernet = common.new_supernet(space, len(data.classes), seed).to(device)
        load_weights(TRAINED / ("early.safetensors" if p.weights == "early" else "weights.safetensors"), supernet)
        run.dataset("outputs/split/splits.parquet", "search", pictures=len(data.items("search")))
        score = common.scorer(supernet, data, "search", evaluation, runtime, device, seed)
        evolved, drawn = searches(p, table, bounds, score, seed, run, checkpoint)
        frames = {"evolution": evolved, "random": drawn}
        found = pd.concat([e.to_frame(space).assign(method=name) for name, e in frames.items()], ignore_index=True)
        found.to_parquet(OUT / "evaluated.parquet", index=False)
        run.table(found, "evaluated.json")

        members = family(evolved, data.key, size=p.members, targets=p.targets_mflops)
        load_weights(TRAINED / "weights.safetensors", supernet)
        final = common.scorer(supernet, data, "monitor", evaluation, runtime, device, seed)
        rows = [row(member, final) for member in progress(members, "search: family calibrated", len(members))]
        common.write_json(OUT / "family.json", rows)
        if p.register_models:
            register(members, rows, final, data, run)
        chance, largest = 100 / len(data.classes), table.largest
        metrics = {
            "evaluations": len(evolved),
            **figures(evolved.cost, evolved.score, (table.smallest, largest), chance),
            "hypervolume_random": hypervolume(drawn.cost, drawn.score, largest, chance),
            "family": len(members),
        }
        common.finish("search", metrics, run)


def limits(p: Search, table: CostTable) -> Bounds | None:
    """The cost bounds of the parameters; None where there are none.

    Raises:
        ValueError: if no architecture lies within them, or a target below the cheapest one; states the achievable range.
    """
    achievable = (table.smallest, table.largest)
    for target in p.targets_mflops or ():
        if target < achievable[0]:
            raise ValueError(
                f"params.yaml: search.targets_mflops: {target:g} is below the cheapest architecture; "
                f"the space has {achievable[0]:.3f} to {achievable[1]:.3f} MFLOPs"
            )
    if p.min_mflops is None and p.max_mflops is None:
        return None
    low, high = p.min_mflops or 0.0, p.max_mflops if p.max_mflops is not None else achievable[1]
    return Bounds(low, high, achievable)


def searches(
    p: Search, table: CostTable, bounds: Bounds | None, score: Scorer, seed: int, run: StageRun, checkpoint: Checkpoint
) -> tuple[Evaluated, Evaluated]:
    """Evolution, then random search with as many evaluations; each goes on from its last whole round."""
    if bounds is None:
        draw = Unconstrained(table.space)
    else:
        sampler = ExactSampler(table, (table.largest - table.smallest) / BUCKETS)

        def draw(n: int, rng: np.random.Generator) -> list[Arch]:
            return sampler.draw_between(bounds.low, min(bounds.high, table.largest), n, rng).archs()

    state = checkpoint.load() or {}
    chance = 100 / score.supernet.classes

    def restored(name: str) -> Evaluated | None:
        return Evaluated(**{k: v.numpy() for k, v in state[name].items()}) if name in state else None

    def scored(name: str):
        def all_of(archs: list[Arch]) -> list[float]:
            return list(progress(score.each(archs), f"search: {name}", len(archs)))

        return all_of

    def saved(name: str):
        def save(evaluated: Evaluated, number: int) -> None:
            area = hypervolume(evaluated.cost, evaluated.score, table.largest, chance)
            run.log({f"search/{name}_hypervolume": area, f"search/{name}_best_top1": evaluated.score.max()}, number)
            state[name] = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in evaluated.to_arrays().items()}
            checkpoint.save(state)

        return save

    shared = {"mflops": table.costs, "draw": draw, "seed": seed, "bounds": bounds}
    evolved = evolution.evolve(
        table.space,
        p.evolution,
        score=scored("evolution"),
        evaluated=restored("evolution"),
        on_round=saved("evolution"),
        **shared,
    )
    block = max(1, p.evolution.mutants + p.evolution.crossovers)
    drawn = evolution.random_search(
        table.space,
        len(evolved),
        block=block,
        score=scored("random"),
        evaluated=restored("random"),
        on_block=saved("random"),
        **shared,
    )
    return evolved, drawn


def row(member: Member, final: Scorer) -> dict:
    """A member's entry in family.json; its calibrated network is written beside it."""
    network = final.network(member.arch)
    save_weights(OUT / "family" / f"{member.name}.safetensors", network)
    return {
        "name": member.name,
        "arch": encoding.to_json(member.arch),
        "mflops": member.mflops,
        "parameters": sum(p.numel() for p in network.parameters()),
        "top1_search": member.top1_search,
        "top1_monitor": final.top1_of(network),
    }


def load_member(entry: dict, searched: common.SearchSpace, classes: int) -> Network:
    """The calibrated network of an entry of family.json, in eval mode on the CPU."""
    network = Network(searched, encoding.from_json(entry["arch"]), classes)
    load_weights(OUT / "family" / f"{entry['name']}.safetensors", network)
    return network.eval()


def register(members: list[Member], rows: list[dict], final: Scorer, data: loader.DataSet, run: StageRun) -> None:
    """The family in MLflow: one registered model, a version and an alias for each member."""
    example = np.zeros((2, 3, data.side, data.side), dtype=np.float32)
    for member, entry in progress(zip(members, rows), "search: models registered", len(members)):
        network = load_member(entry, final.supernet.space, final.supernet.classes)
        run.model(
            member.name,
            network,
            example,
            registered_name=f"pareto-nas-{data.key}",
            alias=member.name.rpartition("-")[2],
            metrics={key: entry[key] for key in ("mflops", "parameters", "top1_search", "top1_monitor")},
            tags={"mflops": f"{member.mflops:.3f}", "dataset": data.key},
        )


if __name__ == "__main__":
    user_errors(main)
