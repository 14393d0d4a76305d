"""Presets applied to params.yaml give a file that every stage accepts."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from nas.runtime import params, presets
from nas.spaces import mbconv
from nas.stages.config import SECTIONS
from nas.training.losses import AdaptiveAlpha
from nas.training.recipe import Recipe

ROOT = Path(__file__).parents[2]
PRESETS = sorted(p.stem for p in (ROOT / "presets").glob("*.yaml"))


@pytest.fixture
def file(tmp_path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def apply(name: str, file: Path) -> list[str]:
    return presets.apply(name, file, ROOT / "presets")


def leaves(values: dict, prefix: str = "") -> dict[str, object]:
    return {
        k: v
        for key, value in values.items()
        for k, v in (leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}).items()
    }


@pytest.mark.parametrize("name", [None, *PRESETS])
def test_every_stage_accepts_the_result(file, name):
    """Every section is valid, no other exists, and the search space loads."""
    if name:
        apply(name, file)
    values = params.read_all(file)
    assert values.keys() == {"seed", "space", *SECTIONS}
    sections = {key: params.check(values, key, model, file) for key, model in SECTIONS.items()}
    assert mbconv.load(ROOT / values["space"]).size > 1
    assert sections["train"].search_epoch <= sections["train"].epochs


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_changes_its_keys_and_no_others(file, name):
    """The result is the default with the preset's values; the returned keys are those that differ."""
    before, preset = params.read_all(file), yaml.safe_load((ROOT / "presets" / f"{name}.yaml").read_text())
    changed = apply(name, file)
    after = params.read_all(file)

    def named(key: str) -> str:  # as returned by `apply`: replaced sections count as one key
        return next((replaced for replaced in presets.REPLACED if key.startswith(f"{replaced}.")), key)

    old, new, set_keys = leaves(before), leaves(after), leaves(preset)
    different = {k for k in old.keys() | new.keys() if old.get(k) != new.get(k)}
    assert all(new[k] == v for k, v in set_keys.items())
    assert different <= set_keys.keys() | {k for k in old if named(k) != k}
    assert {named(k) for k in different} == set(changed)


@pytest.mark.parametrize("name", PRESETS)
def test_comments_and_order_stay(file, name):
    """All comments and keys of params.yaml stay in their order."""

    def comments(text: str) -> list[str]:
        return re.findall(r"# .*", text)

    text, keys = file.read_text(), list(params.read_all(file))
    apply(name, file)
    assert comments(file.read_text()) == comments(text)
    assert list(params.read_all(file)) == keys


def test_a_preset_applied_twice_changes_nothing(file):
    """The second time no byte of the file changes."""
    apply("smoke", file)
    once = file.read_bytes()
    assert apply("smoke", file) == []
    assert file.read_bytes() == once


def test_the_imagenet_preset_has_the_papers_values():
    """AttentiveNAS: 360 epochs, 64 x 32 images per step, 1024 sub-networks, m = 10^6, population 512."""
    preset = yaml.safe_load((ROOT / "presets" / "imagenet.yaml").read_text())
    assert (preset["train"]["epochs"], preset["train"]["search_epoch"], preset["pretrain"]["epochs"]) == (360, 30, 30)
    assert preset["recipe"]["batch"] == 64 * 32
    assert (preset["pretrain"]["subnetworks"], preset["train"]["pool"], preset["train"]["bucket_mflops"]) == (1024, 10**6, 25)
    assert preset["search"]["evolution"]["population"] == 512


def test_the_alphanet_preset_changes_three_things():
    """It has uniform sampling, the adaptive alpha-divergence (alpha -1 and 1, clip 5) and its own space."""
    paper, alpha = (leaves(yaml.safe_load((ROOT / "presets" / f"{name}.yaml").read_text())) for name in ("imagenet", "alphanet"))
    changes = {"space": "nas/spaces/alpha_net.yaml", "train.strategy": "uniform"}
    loss = {"loss": "adaptive-alpha", "alpha_min": -1.0, "alpha_max": 1.0, "clip": 5.0}
    assert alpha == paper | changes | {f"recipe.distillation.{key}": value for key, value in loss.items()}


def test_a_loss_is_replaced_not_merged(file):
    """AlphaNet's loss replaces the default's, of which no key stays."""
    apply("alphanet", file)
    assert params.read("recipe", Recipe, file).distillation == AdaptiveAlpha(alpha_min=-1.0, alpha_max=1.0, clip=5.0)
    assert "temperature" not in params.read_all(file)["recipe"]["distillation"]


@pytest.mark.parametrize(
    ("text", "key"), [("trian: {epochs: 1}", "trian"), ("train: {epoch: 1}", "train.epoch"), ("space: {a: 1}\nx: 1", "x")]
)
def test_an_unknown_key_is_an_error_and_nothing_is_written(file, tmp_path, text, key):
    """The message has the preset's file and the key with its section."""
    (tmp_path / "mine.yaml").write_text(text)
    before = file.read_bytes()
    with pytest.raises(params.ParamsError, match=rf"mine\.yaml: {re.escape(key)} is not a key of params\.yaml"):
        presets.apply("mine", file, tmp_path)
    assert file.read_bytes() == before


def test_an_unknown_preset_lists_the_known_ones(file):
    """The message has all names in presets/."""
    with pytest.raises(params.ParamsError) as error:
        apply("imagnet", file)
    assert "no preset 'imagnet'" in str(error.value) and all(repr(name) in str(error.value) for name in PRESETS)


def test_the_command_prints_the_changed_keys(file, monkeypatch, capsys):
    """`python -m nas.runtime.presets smoke` changes params.yaml of the current folder."""
    shutil.copytree(ROOT / "presets", file.parent / "presets")
    monkeypatch.chdir(file.parent)
    presets.main("smoke")
    assert "train.epochs" in capsys.readouterr().out
    assert params.read_all()["train"]["epochs"] == 2
    with pytest.raises(SystemExit, match="no preset 'x'"):
        presets.main("x")


def test_pipelines_have_their_own_presets(tmp_path, monkeypatch, capsys):
    """The second argument is the pipeline; an unknown one lists the known ones."""
    shutil.copytree(ROOT / "pipelines/tf_nas/presets", tmp_path / "pipelines/tf_nas/presets")
    shutil.copy(ROOT / "pipelines/tf_nas/params.yaml", tmp_path / "pipelines/tf_nas")
    monkeypatch.chdir(tmp_path)
    presets.main("smoke", "tf_nas")
    assert "pipelines/tf_nas/params.yaml: " in capsys.readouterr().out
    assert params.read_all(Path("pipelines/tf_nas/params.yaml"))["train"]["optimisation"]["epochs"] == 1
    with pytest.raises(SystemExit, match=r"no pipeline 'x'; the pipelines with presets are \['tf_nas'\]"):
        presets.main("smoke", "x")
