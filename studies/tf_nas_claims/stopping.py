"""Stage stopping: searches on all classes, on chosen classes, and with early stopping (supplement, sections 2 and 5).

Early stopping replaces bi-sampling, as in the supplement: one path per step, stopped when the operations keep their order. The derived
networks are trained from scratch as in stage train of TF-NAS; the test images are read once.

params   studies/tf_nas_claims/params.yaml: stopping; pipelines/tf_nas/params.yaml: seed, space, runtime, evaluation, search, train
reads    outputs/split/, pipelines/tf_nas/outputs/latency/table.json
writes   stopping/results.csv    per search: seed, searched ("all classes", "chosen classes" or "stopped early"), epochs, cpu_seconds (of
                                 the search including the choice of classes), same_operation, same_layers and same_depths (shares that
                                 agree with the search on all classes), `config.reached`, top1 (percent, test)
         stopping/history.csv    per search and epoch, as pipelines/tf_nas/outputs/search/history.csv
         stopping/metrics.json   {"<searched>_cpu_seconds", "<searched>_top1"}: means over the seeds
"""

from dataclasses import replace

import pandas as pd

from nas.data.dataset import ImageDataset
from nas.models.blocks import RowNetwork
from nas.runtime.progress import progress
from nas.spaces.tf_nas import Arch
from nas.stages import runner
from nas.stages.tf_nas import config as tf_nas
from nas.training.scratch import ScratchTrainer
from studies.tf_nas_claims import config
from studies.tf_nas_claims.config import ALL_CLASSES, CHOSEN_CLASSES, STOPPED_EARLY, TfNasClaimsParams


def main() -> None:
    cfg = config.read()
    with runner.stage("stopping", cfg.sections("stopping"), config.PIPELINE) as stage:
        searches, rows = config.Searches(cfg.tf_nas, stage.checkpoint, stage.run), []
        for seed in progress(cfg.stopping.seeds, "stopping: seeds", len(cfg.stopping.seeds)):
            on_all_classes = None
            for searched, search_cfg in variants(cfg, seed).items():
                name = f"{seed}-{searched.replace(' ', '-')}"
                finished = searches.search(name, search_cfg)
                choice, last = finished.search.arch, finished.search.history[-1]
                on_all_classes = on_all_classes or choice
                timed = config.TimedCheckpoint(stage.checkpoint, f"{name}-")
                scratch = ScratchTrainer(
                    search_cfg.train, tf_nas.LEARNING_RATE, seed, search_cfg.runtime, search_cfg.evaluation, searches.device, timed
                )
                layers, depths = config.agreement(choice, on_all_classes)
                row = {"seed": seed, "searched": searched, "epochs": last.epoch, "cpu_seconds": finished.cpu_seconds}
                row |= {"same_operation": last.same_operation, "same_layers": layers, "same_depths": depths}
                row |= config.reached(searches.table, choice, searches.target_ms)
                rows.append(row | {"top1": top1(scratch, search_cfg, choice, searches.data)})
        searches.write_history(stage.out)
        results = pd.DataFrame(rows)
        results.to_csv(stage.out / "results.csv", index=False, float_format="%.6g")
        stage.run.table(results, "results.json")
        means = results.groupby("searched", sort=False)[["cpu_seconds", "top1"]].mean()
        metrics = {f"{name.replace(' ', '_')}_{key}": mean for name, row in means.iterrows() for key, mean in row.items()}
        stage.finish(metrics)


def variants(cfg: TfNasClaimsParams, seed: int) -> dict[str, tf_nas.TfNasParams]:
    """The searches of a seed; the others are compared with the first."""
    chosen = config.varied(cfg.tf_nas, seed)
    return {
        ALL_CLASSES: replace(chosen, search=chosen.search.model_copy(update={"classes": None})),
        CHOSEN_CLASSES: chosen,
        STOPPED_EARLY: config.varied(cfg.tf_nas, seed, bi_sampling=False, early_stopping=cfg.stopping.early_stopping),
    }


def top1(scratch: ScratchTrainer, cfg: tf_nas.TfNasParams, choice: Arch, data: ImageDataset) -> float:
    """Top-1 (percent) on the test images of the network, trained from scratch."""
    network = scratch.train("network", RowNetwork(cfg.space.plan(choice), len(data.classes)), data, data.indices("train"))
    return scratch.top1(network, data, data.indices("test"))


if __name__ == "__main__":
    runner.execute(main)
