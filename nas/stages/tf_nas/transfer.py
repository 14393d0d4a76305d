"""Stage transfer of TF-NAS: the trained networks fine-tuned on other data sets (supplement, section 6).

As the main pipeline's stage transfer: settings and network are chosen on a hold-out of the training images, the test
images of each set are read once.

params   pipelines/tf_nas/params.yaml: seed, space, runtime, evaluation, transfer
reads    outputs/split/, derive/family.json, train/weights.safetensors
writes   transfer/results.csv    set, network, mflops, learning_rate, weight_decay, top1_holdout, top1_test, best
         transfer/metrics.json   {"<set>_top1"}, percent, test, the chosen network
"""

import copy

from torch import nn

from nas.data.dataset import dataset_keys, open_dataset
from nas.models.blocks import RowNetwork
from nas.runtime.checkpoint import load_weights
from nas.stages import runner
from nas.stages.tf_nas import config
from nas.training.transfer import Tuner, evenly_by_cost, normalised_as, transfer


def main() -> None:
    cfg = config.read()
    with runner.stage("transfer", cfg.sections("seed", "space", "runtime", "evaluation", "transfer"), config.PIPELINE) as stage:
        device, split = cfg.runtime.start(), runner.out("split")
        main_set, *keys = dataset_keys(split)
        source = open_dataset(split, main_set)
        family = config.read_family(cfg.space)
        trained = nn.ModuleDict({entry["name"]: RowNetwork(plan, len(source.classes)) for entry, plan in family})
        load_weights(config.WEIGHTS, trained)
        entries = evenly_by_cost([entry for entry, _ in family], cfg.transfer.models)
        tuner = Tuner(cfg.transfer, cfg.seed, cfg.runtime, device, cfg.evaluation, stage.checkpoint)
        results, _ = transfer(
            cfg.transfer,
            keys,
            lambda key: normalised_as(open_dataset(split, key), source),
            entries,
            lambda entry: copy.deepcopy(trained[entry["name"]]),
            tuner,
            "network",
        )
        results.to_csv(stage.out / "results.csv", index=False)
        stage.run.table(results, "results.json")
        best = results[results["best"]]
        stage.finish({f"{key}_top1": top1 for key, top1 in zip(best["set"], best["top1_test"])})


if __name__ == "__main__":
    runner.execute(main)
