"""params.yaml: any mistake stops the run with a message that names the key."""

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError, create_model

from nas.runtime import params
from nas.runtime.params import ParamsError, Section
from nas.stages.config import check_all

ROOT = Path(__file__).parents[2]


class Crop(Section):
    scale: tuple[float, float]
    flip: bool


class Square(Section):
    form: Literal["square"]
    side: float


class Circle(Section):
    form: Literal["circle", "disc"]
    radius: Annotated[float, Field(gt=0)]
    crop: Crop


class Training(Section):
    epochs: Annotated[int, Field(ge=1)]
    rate: float
    sizes: tuple[int, ...]
    kind: Literal["a", "b"]
    crop: Crop
    other: Crop | None
    shape: Annotated[Square | Circle, Field(discriminator="form")]


GOOD = """
seed: 3
training:
  epochs: 5
  rate: 1
  sizes: [1, 2, 3]
  kind: a
  crop: {scale: [0.5, 1.0], flip: true}
  other: null
  shape: {form: circle, radius: 2, crop: {scale: [0, 1], flip: false}}
"""


@pytest.fixture
def read(tmp_path):
    """Read section `training` of a file with one text replaced by another."""

    def read(old: str = "", new: str = "") -> Training:
        path = tmp_path / "params.yaml"
        assert old in GOOD
        path.write_text(GOOD.replace(old, new, 1) if old else GOOD)
        return params.read("training", Training, path)

    return read


def test_a_section_becomes_an_object(read):
    """Lists become tuples, whole numbers are valid floats, null is None."""
    shape = Circle(form="circle", radius=2.0, crop=Crop(scale=(0.0, 1.0), flip=False))
    expected = Training(epochs=5, rate=1.0, sizes=(1, 2, 3), kind="a", crop=Crop(scale=(0.5, 1.0), flip=True), other=None, shape=shape)
    assert read() == expected


def test_a_section_is_frozen(read):
    """Neither a section nor a nested one can be changed."""
    section = read()
    with pytest.raises(ValidationError, match="frozen"):
        section.epochs = 6
    with pytest.raises(ValidationError, match="frozen"):
        section.crop.flip = False


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs:", "epoch:", "training.epoch is not a known key; did you mean 'epochs'?"),
        ("epochs:", "epoch:", "training.epochs is missing"),
        ("flip: true", "flip: true, flap: 1", "training.crop.flap is not a known key; did you mean 'flip'?"),
        ("flip: true", "flip: true, zoom: 1", "training.crop.zoom is not a known key; allowed are ['flip', 'scale']"),
        ("other: null", "other: {scale: [0, 1], flop: true}", "training.other.flop is not a known key; did you mean 'flip'?"),
        (", flip: true", "", "training.crop.flip is missing"),
        ("epochs: 5", "epochs: '5'", "training.epochs: Input should be a valid integer; found '5'"),
        ("epochs: 5", "epochs: 5.5", "training.epochs: Input should be a valid integer"),
        ("epochs: 5", "epochs: true", "training.epochs: Input should be a valid integer; found True"),
        ("epochs: 5", "epochs: 0", "training.epochs: Input should be greater than or equal to 1; found 0"),
        ("rate: 1", "rate: 1e-3", "training.rate: Input should be a valid number; found '1e-3'"),
        ("flip: true", "flip: 1", "training.crop.flip: Input should be a valid boolean; found 1"),
        ("[1, 2, 3]", "[1, x]", "training.sizes.1: Input should be a valid integer; found 'x'"),
        ("[0.5, 1.0]", "[0.5]", "training.crop.scale.1 is missing"),
        ("kind: a", "kind: c", "training.kind: Input should be 'a' or 'b'; found 'c'"),
        ("form: circle", "form: cone", "training.shape.form: Input should be one of 'square', 'circle', 'disc'; found 'cone'"),
        ("form: circle, ", "", "training.shape.form is missing"),
        ("form: circle", "form: square", "training.shape.side is missing beside form: square"),
        ("form: circle", "form: square", "training.shape.radius is not a known key beside form: square; allowed are ['form', 'side']"),
        ("form: circle", "form: disc, radios: 1", "training.shape.radios is not a known key beside form: disc; did you mean 'radius'?"),
        ("radius: 2", "radius: 0", "training.shape.radius: Input should be greater than 0; found 0"),
        ("flip: false", "flip: 0", "training.shape.crop.flip: Input should be a valid boolean; found 0"),
        ("flip: false", "flip: false, flop: 1", "training.shape.crop.flop is not a known key; did you mean 'flip'?"),
    ],
)
def test_a_mistake_names_the_key(read, old, new, message):
    """The message has the file, the key with its section, the value and the closest known key."""
    with pytest.raises(ParamsError) as error:
        read(old, new)
    assert f"params.yaml: {message}" in str(error.value)


def test_all_mistakes_are_reported_at_once(read):
    """Two wrong values give two lines."""
    with pytest.raises(ParamsError) as error:
        read("epochs: 5\n  rate: 1", "epochs: 0\n  rate: fast")
    assert len(str(error.value).splitlines()) == 2


def test_a_missing_section_lists_the_others(tmp_path):
    """The message has the missing section and the existing ones."""
    path = tmp_path / "params.yaml"
    path.write_text(GOOD)
    with pytest.raises(ParamsError, match=r"section 'train' is missing; found \['seed', 'training'\]"):
        params.read("train", Training, path)


def test_an_empty_section_is_an_error(tmp_path):
    """`training:` without keys names the section."""
    path = tmp_path / "params.yaml"
    path.write_text("training:\n")
    with pytest.raises(ParamsError, match=r"params\.yaml: training: .*found None"):
        params.read("training", Training, path)


@pytest.mark.parametrize(("text", "message"), [("a: [1", "is not valid YAML"), ("- 1", "expected sections, found list"), ("", "NoneType")])
def test_a_file_that_is_not_a_mapping_is_an_error(tmp_path, text, message):
    """Broken YAML, a list and an empty file raise."""
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=rf"params\.yaml.*{message}"):
        params.read_all(path)


def test_a_missing_file_says_where_to_run(tmp_path, monkeypatch):
    """Outside the project's root the message says so."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match=r"there is no params\.yaml in .*; run from the project's root"):
        params.read("training", Training)


def test_a_top_level_value_is_read(tmp_path):
    """`value` returns a top-level key; for a missing one it lists the others."""
    path = tmp_path / "params.yaml"
    path.write_text(GOOD)
    assert params.value("seed", path) == 3
    with pytest.raises(ParamsError, match=r"the key 'space' is missing; found \['seed', 'training'\]"):
        params.value("space", path)


def test_the_default_file_is_params_yaml():
    """DVC tracks this name."""
    assert Path("params.yaml") == params.FILE


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trial_samples: 50", "trial_sample: 50", "report.trial_sample is not a known key; did you mean 'trial_samples'"),
        ("strategy: bestup-3-loss", "strategy: bestest", "train.strategy: unknown strategy 'bestest'"),
        ("search_epoch: 1 ", "search_epoch: 99 ", "search_epoch 99 comes after the last of 8 epochs"),
        ("{loss: kl,", "{loss: kll,", "recipe.distillation.loss: Input should be one of 'kl', 'alpha', 'adaptive-alpha'; found 'kll'"),
        ("{loss: kl,", "{loss: kl, clip: 5,", "recipe.distillation.clip is not a known key beside loss: kl; allowed are ['loss', "),
        ("  models: 5 ", "  models: null ", "either models or targets is needed"),
        (
            "  costs: [mflops] ",
            "  costs: [watts] ",
            "search.costs.0: Input should be 'mflops', 'parameters' or 'latency_ms'",
        ),
        ("  costs: [mflops] ", "  costs: [mflops, mflops] ", "each can be named once"),
        ("  targets: null ", "  targets: [{flops: 3}] ", "search.targets.0.flops"),
        ("split:\n", "pictures: {a: 1}\nsplit:\n", "params.yaml: pictures is now called images"),
        ("split:\n", "heuristics: {a: 1}\nsplit:\n", "params.yaml: heuristics is not a known key; allowed are ['evaluation', "),
        ("\n  val: ", "\n  monitor: ", "params.yaml: split.monitor is now called split.val"),
        ("\n  val: ", "\n  monitor: ", "params.yaml: split.val is missing"),
        ("\nlauncher:", "\nlaunchers:", "params.yaml: launchers is not a known key; did you mean 'launcher'?"),
        ("report:\n", "reports:\n", "params.yaml: reports is not a known key; did you mean 'report'?"),
        ("space: nas/spaces/glyphs.yaml", "space: nas/spaces/glyph.yaml", "there is no file nas/spaces/glyph.yaml"),
    ],
)
def test_a_mistake_in_any_section_stops_the_first_stage(tmp_path, monkeypatch, old, new, message):
    """All sections of params.yaml are checked before a stage runs."""
    text = (ROOT / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new))
    (tmp_path / "nas").symlink_to(ROOT / "nas")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        check_all()


@pytest.mark.parametrize("seed", [-1, 1.5, "3", True, None])
def test_an_impossible_seed_is_an_error(seed):
    """The seed is a whole number from 0 on."""
    with pytest.raises(ParamsError, match=f"seed: a whole number from 0 on is needed; found {seed!r}"):
        params.check_seed({"seed": seed})


@pytest.mark.parametrize(("section", "key"), [name.split(".", 1) for name in params.RENAMED if "." in name])
def test_a_renamed_key_is_refused_with_its_new_name(section, key):
    """Every former key of a section has a message with the new one."""
    outer, _, last = key.rpartition(".")
    nested = {outer: (create_model("Nested", __base__=Section), ...)} if outer else {}
    model, values = create_model("Outer", __base__=Section, **nested), {last: 1}
    with pytest.raises(ParamsError, match=rf"{section}\.{key} is now called {params.RENAMED[f'{section}.{key}']}"):
        params.check({section: {outer: values} if outer else values}, section, model)


def test_a_missing_top_level_key_is_named():
    """A file without a section lists the existing ones."""
    with pytest.raises(ParamsError, match=r"the key 'space' is missing; found \['seed'\]"):
        params.check_keys({"seed": 1}, {"seed", "space"})


def test_a_renamed_value_is_refused_with_its_new_name(tmp_path):
    """`search.method: guided` is bayesian now."""

    class Search(Section):
        method: Literal["evolution", "bayesian"]

    file = tmp_path / "params.yaml"
    file.write_text("search: {method: guided}\n")
    with pytest.raises(ParamsError, match=r"search\.method: guided is now called bayesian"):
        params.read("search", Search, file)
