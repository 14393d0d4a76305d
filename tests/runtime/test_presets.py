"""Profiles: laid over params.yaml, they give a file that every stage accepts."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from nas.runtime import params, presets
from nas.runtime.distributed import Launcher
from nas.spaces import mbconv
from nas.stages import export, fit_predictor, latency, pretrain, report, runner, search, split, train, transfer
from nas.tracking.session import Settings
from nas.training.losses import AdaptiveAlpha
from nas.training.recipe import Recipe, Runtime

ROOT = Path(__file__).parents[2]
PROFILES = sorted(p.stem for p in (ROOT / "presets").glob("*.yaml"))
SECTIONS = {
    "split": split.Split,
    "runtime": Runtime,
    "recipe": Recipe,
    "evaluation": runner.Evaluation,
    "pretrain": pretrain.Pretrain,
    "fit_predictor": fit_predictor.FitPredictor,
    "train": train.Train,
    "latency": latency.Latency,
    "search": search.Search,
    "export": export.Export,
    "transfer": transfer.Transfer,
    "report": report.Report,
    "tracking": Settings,
    "launcher": Launcher,
}


@pytest.fixture
def file(tmp_path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def apply(name: str, file: Path) -> list[str]:
    return presets.apply(name, file, ROOT / "presets")


def leaves(found: dict, prefix: str = "") -> dict[str, object]:
    return {
        k: v
        for key, value in found.items()
        for k, v in (leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}).items()
    }


@pytest.mark.parametrize("name", [None, *PROFILES])
def test_every_stage_accepts_the_result(file, name):
    """Each section is valid, there is none beside them, and the search space exists."""
    if name:
        apply(name, file)
    found = params.read_all(file)
    assert found.keys() == {"seed", "space", *SECTIONS}
    sections = {key: params.check(found, key, model, file) for key, model in SECTIONS.items()}
    assert mbconv.load(ROOT / found["space"]).size > 1
    assert sections["train"].search_epoch <= sections["train"].epochs


@pytest.mark.parametrize("name", PROFILES)
def test_what_the_profile_says_is_in_the_file_and_nothing_else_changed(file, name):
    """The result is the profile over the default; the keys returned are those that differ."""
    before, wanted = params.read_all(file), yaml.safe_load((ROOT / "presets" / f"{name}.yaml").read_text())
    changed = apply(name, file)
    after = params.read_all(file)

    def named(key: str) -> str:  # as `apply` names it: these are replaced, not merged
        return next((whole for whole in presets.WHOLE if key.startswith(f"{whole}.")), key)

    old, new, asked = leaves(before), leaves(after), leaves(wanted)
    different = {k for k in old.keys() | new.keys() if old.get(k) != new.get(k)}
    assert all(new[k] == v for k, v in asked.items())
    assert different <= asked.keys() | {k for k in old if named(k) != k}
    assert {named(k) for k in different} == set(changed)


@pytest.mark.parametrize("name", PROFILES)
def test_comments_and_order_stay(file, name):
    """Every comment of params.yaml is still there, in the same order, and so are the keys."""

    def comments(text: str) -> list[str]:
        return re.findall(r"# .*", text)

    text, keys = file.read_text(), list(params.read_all(file))
    apply(name, file)
    assert comments(file.read_text()) == comments(text)
    assert list(params.read_all(file)) == keys


def test_twice_is_once(file):
    """Applied again, a profile changes nothing, not a byte."""
    apply("smoke", file)
    once = file.read_bytes()
    assert apply("smoke", file) == []
    assert file.read_bytes() == once


def test_the_paper_numbers():
    """imagenet.yaml has AttentiveNAS's: 360 epochs, 64 x 32 images a step, 1024 sub-networks, m = 10^6, population 512."""
    found = yaml.safe_load((ROOT / "presets" / "imagenet.yaml").read_text())
    assert (found["train"]["epochs"], found["train"]["search_epoch"], found["pretrain"]["epochs"]) == (360, 30, 30)
    assert found["recipe"]["batch"] == 64 * 32
    assert (found["pretrain"]["subnetworks"], found["train"]["pool"], found["train"]["bucket_mflops"]) == (1024, 10**6, 25)
    assert found["search"]["evolution"]["population"] == 512


def test_alphanet_is_imagenet_but_for_its_three_changes():
    """Uniform sampling, the adaptive alpha-divergence (alpha -1 and 1, clip 5), and its own space."""
    paper, alpha = (leaves(yaml.safe_load((ROOT / "presets" / f"{name}.yaml").read_text())) for name in ("imagenet", "alphanet"))
    changes = {"space": "nas/spaces/alpha_net.yaml", "train.strategy": "uniform"}
    loss = {"loss": "adaptive-alpha", "alpha_min": -1.0, "alpha_max": 1.0, "clip": 5.0}
    assert alpha == paper | changes | {f"recipe.distillation.{key}": value for key, value in loss.items()}


def test_a_loss_is_replaced_not_merged(file):
    """AlphaNet's takes the place of the default's, none of whose keys stays: the same as if nothing had been there."""
    apply("alphanet", file)
    assert params.read("recipe", Recipe, file).distillation == AdaptiveAlpha(alpha_min=-1.0, alpha_max=1.0, clip=5.0)
    assert "temperature" not in params.read_all(file)["recipe"]["distillation"]


@pytest.mark.parametrize(
    ("text", "key"), [("trian: {epochs: 1}", "trian"), ("train: {epoch: 1}", "train.epoch"), ("space: {a: 1}\nx: 1", "x")]
)
def test_an_unknown_key_is_refused_and_nothing_written(file, tmp_path, text, key):
    """The message has the profile's file and the key with its section."""
    (tmp_path / "mine.yaml").write_text(text)
    before = file.read_bytes()
    with pytest.raises(params.ParamsError, match=rf"mine\.yaml: {re.escape(key)} is no key of params\.yaml"):
        presets.apply("mine", file, tmp_path)
    assert file.read_bytes() == before


def test_an_unknown_profile_lists_the_known(file):
    """The message has every name in presets/."""
    with pytest.raises(params.ParamsError) as error:
        apply("imagnet", file)
    assert "no profile 'imagnet'" in str(error.value) and all(repr(name) in str(error.value) for name in PROFILES)


def test_the_command_changes_the_file_and_says_what(file, monkeypatch, capsys):
    """As `python -m nas.runtime.presets smoke` runs it, in the project's root."""
    shutil.copytree(ROOT / "presets", file.parent / "presets")
    monkeypatch.chdir(file.parent)
    presets.main("smoke")
    assert "train.epochs" in capsys.readouterr().out
    assert params.read_all()["train"]["epochs"] == 2
    with pytest.raises(SystemExit, match="no profile 'x'"):
        presets.main("x")


def test_other_pipelines_have_profiles_of_their_own(tmp_path, monkeypatch, capsys):
    """The second word of the command is the pipeline; one that there is not is told with those that there are."""
    shutil.copytree(ROOT / "pipelines/tf_nas/presets", tmp_path / "pipelines/tf_nas/presets")
    shutil.copy(ROOT / "pipelines/tf_nas/params.yaml", tmp_path / "pipelines/tf_nas")
    monkeypatch.chdir(tmp_path)
    presets.main("smoke", "tf_nas")
    assert "pipelines/tf_nas/params.yaml: " in capsys.readouterr().out
    assert params.read_all(Path("pipelines/tf_nas/params.yaml"))["train"]["how"]["epochs"] == 1
    with pytest.raises(SystemExit, match=r"no pipeline 'x'; there are \['tf_nas'\]"):
        presets.main("smoke", "x")
