"""Stage train of TF-NAS: each derived network trained from scratch on all training images, then evaluated on the test images.

params   pipelines/tf_nas/params.yaml: seed, space, runtime, evaluation, train
reads    outputs/split/, derive/family.json
writes   train/weights.safetensors   of all networks, calibrated, as <name>.<parameter>
         train/metrics.json          {"<name>_top1"}, percent, test
         ../summary.json             for each target: target_latency_ms, table_latency_ms, measured_latency_ms, noise_floor, mflops,
                                     parameters, top1 (percent, test), bounds_reached
"""

from torch import nn

from nas.data.dataset import open_dataset
from nas.models.blocks import RowNetwork
from nas.runtime.checkpoint import save_weights
from nas.stages import runner
from nas.stages.tf_nas import config
from nas.training.scratch import ScratchTrainer


def main() -> None:
    cfg = config.read()
    with runner.stage("train", cfg.sections("seed", "space", "runtime", "evaluation", "train"), config.PIPELINE) as stage:
        device, data = cfg.runtime.start(), open_dataset(runner.out("split"))
        trainer = ScratchTrainer(cfg.train, config.LEARNING_RATE, cfg.seed, cfg.runtime, cfg.evaluation, device, stage.checkpoint)
        stage.run.dataset("outputs/split/splits.parquet", "training", images=len(data.indices("train")))
        networks, summary, metrics, test = nn.ModuleDict(), [], {}, data.indices("test")
        for entry, plan in config.read_family(cfg.space):
            name = entry["name"]
            networks[name] = trainer.train(name, RowNetwork(plan, len(data.classes)), data, data.indices("train"))
            top1 = trainer.top1(networks[name], data, test)
            metrics[f"{name}_top1"] = top1
            summary.append({key: value for key, value in entry.items() if key not in ("name", "rows")} | {"top1": round(top1, 6)})
            print(f"train {name}: top-1 {top1:.2f} % on the test images", flush=True)
        save_weights(config.WEIGHTS, networks)
        runner.write_json(config.PIPELINE.outputs / "summary.json", summary)
        stage.run.front({**entry, "latency_ms": entry["measured_latency_ms"]} for entry in summary)
        stage.finish(metrics)


if __name__ == "__main__":
    runner.execute(main)
