"""Stage stopping: what a search costs and comes to on all classes, on chosen ones, and ended early (supplement, sections 2 and 5).

Early stopping takes the place of bi-sampling, as in the supplement: one path a step, ended when operations keep their order.
The derived networks are trained by themselves as stage train of TF-NAS does it; the test images are read once.

params   studies/tf_nas_claims/params.yaml: stopping; pipelines/tf_nas/params.yaml: seed, space, runtime, evaluation, search, train
reads    outputs/split/, pipelines/tf_nas/outputs/latency/table.json
writes   stopping/results.csv    a search: seed, searched ("all classes", "chosen classes" or "stopped early"), epochs, cpu_seconds (of the
                                 search, the choice of classes with it), same_operation, same_layers and same_depths (shares that
                                 agree with the search on all classes), `common.reached`, top1 (percent, test)
         stopping/metrics.json   {"<searched>_cpu_seconds", "<searched>_top1"}: means over the seeds
"""

from dataclasses import replace

import pandas as pd

from nas.data import loader
from nas.models.blocks import RowNetwork
from nas.runtime.progress import progress
from nas.spaces.tf_nas import Arch
from nas.stages.errors import user_errors
from nas.stages.scratch import Alone
from nas.stages.tf_nas import config as tf_nas
from studies.tf_nas_claims import config

RESULTS = config.PIPELINE.outputs / "stopping" / "results.csv"
ALL, CHOSEN, EARLY = "all classes", "chosen classes", "stopped early"


def main() -> None:
    s = config.read()
    with config.PIPELINE.stage("stopping", s.sections("stopping")) as (run, checkpoint, out):
        searches, rows = config.Searches(s.tf_nas, checkpoint, run), []
        for seed in progress(s.stopping.seeds, "stopping: seeds", len(s.stopping.seeds)):
            full = None
            for searched, settings in variants(s, seed).items():
                found = searches.search(f"{seed}-{searched.replace(' ', '-')}", settings)
                choice, last = found.search.arch, found.search.history[-1]
                full = full or choice
                kept = config.Kept(checkpoint, f"{seed}-{searched.replace(' ', '-')}-")
                alone = Alone(settings.train, tf_nas.PIPELINE, seed, settings.runtime, settings.evaluation, searches.device, kept)
                layers, depths = config.agreement(choice, full)
                known = {"seed": seed, "searched": searched, "epochs": last.epoch, "cpu_seconds": found.cpu_seconds}
                known |= {"same_operation": last.same_operation, "same_layers": layers, "same_depths": depths}
                known |= config.reached(searches.table, choice, searches.target_ms)
                rows.append(known | {"top1": top1(alone, settings, choice, searches.data)})
        results = pd.DataFrame(rows)
        results.to_csv(RESULTS, index=False, float_format="%.6g")
        run.table(results, "results.json")
        means = results.groupby("searched", sort=False)[["cpu_seconds", "top1"]].mean()
        metrics = {f"{name.replace(' ', '_')}_{key}": mean for name, row in means.iterrows() for key, mean in row.items()}
        config.PIPELINE.finish(out, metrics, run)


def variants(s: config.Settings, seed: int) -> dict[str, tf_nas.Settings]:
    """The searches of a seed; the first is what the others are compared with."""
    chosen = config.varied(s.tf_nas, seed)
    return {
        ALL: replace(chosen, search=chosen.search.model_copy(update={"classes": None})),
        CHOSEN: chosen,
        EARLY: config.varied(s.tf_nas, seed, bi_sampling=False, early_stopping=s.stopping.early_stopping),
    }


def top1(alone: Alone, s: tf_nas.Settings, choice: Arch, data: loader.ImageDataset) -> float:
    """Percent of the test images that the network, trained by itself, names rightly."""
    network = alone.trained("network", RowNetwork(s.space.plan(choice), len(data.classes)), data, data.indices("train"))
    test = data.indices("test")
    return 100 * float((alone.answers(network, data, test) == data.labels[test]).mean())


if __name__ == "__main__":
    user_errors(main)
