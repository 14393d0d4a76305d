"""Stage transfer: models of the family fine-tuned on other data sets (AttentiveNAS, appendix G and Table 5).

Settings and model are chosen on a hold-out of the training images; the test images of each data set are read once.

params   params.yaml: seed, space, runtime, evaluation, transfer
reads    outputs/split/, outputs/search/family.json, outputs/search/family/
writes   outputs/transfer/results.parquet   set, model, mflops, learning_rate, weight_decay, top1_holdout, top1_test, best
         outputs/transfer/weights/          <set>.safetensors: the chosen network, calibrated
         outputs/transfer/metrics.json      {"<set>_top1"}  percent, test, the chosen model
"""

from nas.data.dataset import ImageDataset, dataset_keys, open_dataset
from nas.models.extract import Network, load_network
from nas.runtime import params
from nas.runtime.checkpoint import save_weights
from nas.spaces import encoding
from nas.stages import config, runner
from nas.training.transfer import Transfer, Tuner, evenly_by_cost, normalised_as, transfer


def main() -> None:
    cfg = params.read("transfer", Transfer)
    _, runtime, evaluation = config.shared()
    seed, space = params.seed(), config.search_space()
    sections = {"seed": seed, "space": space.name, "runtime": runtime, "evaluation": evaluation, "transfer": cfg}
    with runner.stage("transfer", sections) as stage:
        device, split, searched = runtime.start(), runner.out("split"), runner.out("search")
        main_set, *keys = dataset_keys(split)
        source = open_dataset(split, main_set)
        entries = evenly_by_cost(encoding.read_family(searched / "family.json"), cfg.models)

        def load(entry: dict) -> Network:
            path = searched / "family" / f"{entry['name']}.safetensors"
            return load_network(path, space, encoding.from_json(entry["arch"]), len(source.classes))

        def read(key: str) -> ImageDataset:
            return normalised_as(open_dataset(split, key), source)

        tuner = Tuner(cfg, seed, runtime, device, evaluation, stage.checkpoint)
        results, networks = transfer(cfg, keys, read, entries, load, tuner, "model")
        (stage.out / "weights").mkdir(exist_ok=True)  # exists without other data sets, too
        for key, network in networks.items():
            save_weights(stage.out / "weights" / f"{key}.safetensors", network)
            stage.run.dataset("outputs/split/splits.parquet", f"transfer {key}", images=len(read(key).indices("train")))
        results.to_parquet(stage.out / "results.parquet", index=False)
        stage.run.table(results, "results.json")
        best = results[results["best"]]
        stage.finish({f"{key}_top1": top1 for key, top1 in zip(best["set"], best["top1_test"])})


if __name__ == "__main__":
    runner.execute(main)
