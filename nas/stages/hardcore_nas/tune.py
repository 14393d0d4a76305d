"""Stage tune of HardCoRe-NAS: each network fine-tuned from the one-shot model's weights, and from scratch; then the test images, once.

HardCoRe-NAS (arXiv:2102.11646), section 4.2.2 and Appendix G (Figure 8). All training images are used.

params   pipelines/hardcore_nas/params.yaml: seed, space, runtime, evaluation, images (augmentation), tune
reads    outputs/split/, train/weights.safetensors, train/teacher.safetensors, derive/family.json
writes   tune/weights.safetensors   of all networks, fine-tuned, as <name>.<parameter>
         tune/history.csv           network, training ("tuning" or "scratch"), epoch, loss (mean, nats)
         tune/metrics.json          {"<name>_top1", "<name>_top1_scratch" (percent, test), "seconds_per_target" (of fine-tuning)}
         ../summary.json            for each target: target_latency_ms, max_violation_ms, table_latency_ms, measured_latency_ms,
                                    noise_floor, mflops, parameters, top1 and top1_scratch (percent, test)
"""

import numpy as np
import pandas as pd
from torch import nn

from nas.data.dataset import open_dataset
from nas.data.loader import EvaluationBatches
from nas.differentiable.hardcore_nas.one_shot import OneShot, extract
from nas.differentiable.hardcore_nas.training import scratch_loss, tuning_loss
from nas.evaluation.evaluate import top1
from nas.models.blocks import RowNetwork
from nas.runtime import seeding
from nas.runtime.checkpoint import load_weights, save_weights
from nas.stages import runner
from nas.stages.hardcore_nas import config
from nas.stages.hardcore_nas.resumable_training import Trainer


def main() -> None:
    cfg = config.read()
    parameters = cfg.sections("seed", "space", "runtime", "evaluation", "images", "tune")
    with runner.stage("tune", parameters, config.PIPELINE) as stage:
        runtime, tuning, scratch = cfg.runtime, cfg.tune.tuning, cfg.tune.scratch
        device, data = runtime.start(), open_dataset(runner.out("split"))
        classes, items = len(data.classes), data.indices("train")
        stage.run.dataset("outputs/split/splits.parquet", "training", images=len(items))
        test = EvaluationBatches(data, data.indices("test"), cfg.evaluation.batch, runtime.workers)
        trainer = Trainer("tune", cfg, data, device, stage.checkpoint, stage.run)
        model, teacher = OneShot(cfg.space, classes), RowNetwork(cfg.space.plan(cfg.space.largest()), classes)
        load_weights(config.WEIGHTS, model)
        load_weights(config.TEACHER, teacher)
        teacher.to(device, memory_format=runtime.memory_format).eval()
        tuned, rows, summary, metrics, seconds = nn.ModuleDict(), [], [], {}, []
        for entry, arch in config.read_networks(config.FAMILY, cfg.space, "derive", config.FAMILY_KEYS):
            name = entry["name"]
            tuned[name] = network = extract(model, arch)
            with seeding.torch_seed(cfg.seed, "scratch", name):
                untrained = RowNetwork(network.plan, classes)
            loss = tuning_loss(network, teacher, tuning.label_smoothing)
            from_model = trainer.fit(f"{name}_tuning", "tuning", network, loss, items, tuning)
            loss = scratch_loss(untrained, scratch.label_smoothing)
            from_scratch = trainer.fit(f"{name}_scratch", "scratch", untrained, loss, items, scratch)
            accuracies = {"top1": network, "top1_scratch": untrained}
            accuracies = {key: top1(trained, runtime.to_device(test, device)) for key, trained in accuracies.items()}
            print(
                f"tune {name}: top-1 {accuracies['top1']:.2f} %, from scratch {accuracies['top1_scratch']:.2f} %, test images", flush=True
            )
            rows += [*from_model.rows(network=name, training="tuning"), *from_scratch.rows(network=name, training="scratch")]
            metrics |= {f"{name}_{key}": value for key, value in accuracies.items()}
            facts = {key: value for key, value in entry.items() if key not in ("name", "arch")}
            summary.append(facts | {key: round(value, 6) for key, value in accuracies.items()})
            seconds.append(from_model.seconds)
        save_weights(config.TUNED, tuned)
        pd.DataFrame(rows).to_csv(stage.out / "history.csv", index=False)
        runner.write_json(config.PIPELINE.outputs / "summary.json", summary)
        stage.run.front({**entry, "latency_ms": entry["measured_latency_ms"]} for entry in summary)
        stage.finish({**metrics, "seconds_per_target": float(np.mean(seconds))})


if __name__ == "__main__":
    runner.execute(main)
