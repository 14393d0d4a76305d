"""Stage tuning: networks fine-tuned for few and for many epochs, and trained from scratch (Appendix G, Figure 8).

As in stage tune of HardCoRe-NAS except for the numbers of epochs; no choice depends on the test images.

params   studies/hardcore_nas_claims/params.yaml: tuning
         pipelines/hardcore_nas/params.yaml: seed, space, runtime, evaluation, images, tune
reads    outputs/split/; of HardCoRe-NAS train/weights.safetensors, train/teacher.safetensors, derive/family.json
writes   tuning/results.csv    per network and training: network, training ("tuning" or "scratch"), epochs (0: inherited weights,
                               not fine-tuned), top1 (percent, test), images (number of test images),
                               measured_latency_ms, seconds
         tuning/history.csv    network, training, epochs, epoch, loss (mean, nats)
         tuning/metrics.json   {"<training>_<epochs>_top1"}: means over the networks
"""

import pandas as pd

from nas.runtime.progress import progress
from nas.stages import runner
from nas.stages.hardcore_nas.config import FAMILY, read_networks
from studies.hardcore_nas_claims import config
from studies.hardcore_nas_claims.config import SCRATCH, TUNED


def main() -> None:
    cfg = config.read()
    with runner.stage("tuning", cfg.sections("tuning"), config.PIPELINE) as stage:
        trainer, rows, history = config.Networks(cfg.hardcore_nas, stage.checkpoint, stage.run), [], []
        family = {
            e["name"]: (e, arch) for e, arch in read_networks(FAMILY, cfg.hardcore_nas.space, "derive", ("name", "measured_latency_ms"))
        }
        for name in progress(cfg.tuning.targets, "tuning: networks", len(cfg.tuning.targets)):
            entry, arch = family[name]
            jobs = [(TUNED, trainer.tuned, epochs) for epochs in cfg.tuning.epochs] + [(SCRATCH, trainer.from_scratch, cfg.tuning.scratch)]
            row = {"network": name, "images": len(trainer.data.indices("test")), "measured_latency_ms": entry["measured_latency_ms"]}
            rows.append({**row, "training": TUNED, "epochs": 0, "top1": trainer.top1(trainer.inherited(arch)), "seconds": 0.0})
            for training, train, epochs in jobs:
                network, trained = train(name, arch, epochs)
                job = {"training": training, "epochs": epochs}
                rows.append({**row, **job, "top1": trainer.top1(network), "seconds": trained.seconds})
                history += trained.rows(network=name, **job)
                print(f"tuning {name}: top-1 {rows[-1]['top1']:.2f} % after {training}, epochs: {epochs}", flush=True)
        results = pd.DataFrame(rows)
        results.to_csv(stage.out / "results.csv", index=False, float_format="%.6g")
        pd.DataFrame(history).to_csv(stage.out / "history.csv", index=False, float_format="%.6g")
        stage.run.table(results, "results.json")
        means = results.groupby(["training", "epochs"], sort=False)["top1"].mean()
        stage.finish({f"{training}_{epochs}_top1": mean for (training, epochs), mean in means.items()})


if __name__ == "__main__":
    runner.execute(main)
