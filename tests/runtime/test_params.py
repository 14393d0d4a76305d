"""params.yaml: what is wrong stops the run and is named."""

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from nas.runtime import params
from nas.runtime.params import ParamsError, Section
from nas.stages.check import check_all

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
    """Lists become tuples, whole numbers may stand for fractions, null is None."""
    shape = Circle(form="circle", radius=2.0, crop=Crop(scale=(0.0, 1.0), flip=False))
    expected = Training(epochs=5, rate=1.0, sizes=(1, 2, 3), kind="a", crop=Crop(scale=(0.5, 1.0), flip=True), other=None, shape=shape)
    assert read() == expected


def test_a_section_is_frozen(read):
    """Neither it nor a section within it can be changed."""
    found = read()
    with pytest.raises(ValidationError, match="frozen"):
        found.epochs = 6
    with pytest.raises(ValidationError, match="frozen"):
        found.crop.flip = False


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
def test_each_mistake_names_the_key(read, old, new, message):
    """The file, the key with its section, what was found, and the nearest right key."""
    with pytest.raises(ParamsError) as error:
        read(old, new)
    assert f"params.yaml: {message}" in str(error.value)


def test_all_mistakes_are_told_at_once(read):
    """Two wrong values give two lines."""
    with pytest.raises(ParamsError) as error:
        read("epochs: 5\n  rate: 1", "epochs: 0\n  rate: fast")
    assert len(str(error.value).splitlines()) == 2


def test_a_missing_section_lists_those_there_are(tmp_path):
    """The message has the name asked for and the ones found."""
    path = tmp_path / "params.yaml"
    path.write_text(GOOD)
    with pytest.raises(ParamsError, match=r"section 'train' is missing; found \['seed', 'training'\]"):
        params.read("train", Training, path)


def test_an_empty_section_is_no_section(tmp_path):
    """`training:` with nothing below names the section."""
    path = tmp_path / "params.yaml"
    path.write_text("training:\n")
    with pytest.raises(ParamsError, match=r"params\.yaml: training: .*found None"):
        params.read("training", Training, path)


@pytest.mark.parametrize(("text", "message"), [("a: [1", "is not valid YAML"), ("- 1", "expected sections, found list"), ("", "NoneType")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, message):
    """Broken YAML, a list, nothing."""
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=rf"params\.yaml.*{message}"):
        params.read_all(path)


def test_a_missing_file_says_where_to_run(tmp_path, monkeypatch):
    """From another folder than the project's root."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match=r"there is no params\.yaml in .*; run from the project's root"):
        params.read("training", Training)


def test_a_single_value_and_its_absence(tmp_path):
    """`value` gives a top-level entry, or names the ones there are."""
    path = tmp_path / "params.yaml"
    path.write_text(GOOD)
    assert params.value("seed", path) == 3
    with pytest.raises(ParamsError, match=r"the key 'space' is missing; found \['seed', 'training'\]"):
        params.value("space", path)


def test_the_default_file_is_params_yaml():
    """DVC tracks that name."""
    assert Path("params.yaml") == params.FILE


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("trial_samples: 50", "trial_sample: 50", "report.trial_sample is not a known key; did you mean 'trial_samples'"),
        ("strategy: bestup-3-loss", "strategy: bestest", "train.strategy: there is no strategy 'bestest'"),
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
        ("report:\n", "reports:\n", "there is no section 'reports'"),
        ("space: nas/spaces/glyphs.yaml", "space: nas/spaces/glyph.yaml", "there is no file nas/spaces/glyph.yaml"),
    ],
)
def test_a_mistake_in_a_later_section_is_told_by_the_first_stage(tmp_path, monkeypatch, old, new, told):
    """All of params.yaml is checked before anything runs."""
    text = (ROOT / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new))
    (tmp_path / "nas").symlink_to(ROOT / "nas")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(told)):
        check_all()
