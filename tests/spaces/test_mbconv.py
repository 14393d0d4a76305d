"""nas.spaces.mbconv: search spaces, sampling from them, and their files."""

from dataclasses import FrozenInstanceError, replace
from math import prod

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas.spaces import FOLDER
from nas.spaces.mbconv import Arch, StageArch, hidden_width, load

PAPER = load(FOLDER / "attentive_nas.yaml")
FILE = yaml.safe_load((FOLDER / "attentive_nas.yaml").read_text())
seeds = st.integers(0, 2**32)


def test_size_of_the_paper_space():
    """Section 4.1 states 10^11; Table 2's choices multiply to 4.403e11."""
    assert PAPER.size == pytest.approx(4.403e11, rel=1e-4)


def test_size_is_the_number_of_architectures(tiny_space, tiny_rows):
    """All 2304 listed architectures are different and in the tiny space."""
    listed = {Arch.from_genes(row) for row in tiny_rows.tolist()}
    assert tiny_space.size == len(listed) == 2304
    assert all(arch in tiny_space for arch in listed)


def test_genes_of_the_paper_space_are_31():
    """Resolution, nine widths, seven depths, seven kernels, seven expansions, in this order."""
    axes = [g.name.rpartition(".")[2] for g in PAPER.genes]
    assert axes == ["resolution", *["width"] * 9, *["depth"] * 7, *["kernel"] * 7, *["expansion"] * 7]


def test_ends_take_all_first_and_all_last_choices(tiny_space):
    """Smallest and largest, written out."""
    assert tiny_space.smallest() == Arch(16, 8, (StageArch(8, 1, 3, 1), StageArch(16, 1, 3, 2)), 32)
    assert tiny_space.largest() == Arch(20, 16, (StageArch(16, 2, 5, 1), StageArch(32, 3, 5, 3)), 48)


def test_an_architecture_is_a_value(tiny_space):
    """Equal ones are one key of a dictionary, and none can be changed."""
    arch = tiny_space.smallest()
    assert len({arch, tiny_space.smallest(), tiny_space.largest()}) == 2
    with pytest.raises(FrozenInstanceError):
        arch.resolution = 20


@pytest.mark.parametrize(("c_in", "expansion", "hidden"), [(16, 1, 16), (12, 1, 12), (24, 5, 120), (12, 3, 40), (20, 6, 120)])
def test_hidden_width(c_in, expansion, hidden):
    """Input channels times the expansion, rounded to a multiple of 8; without an expansion layer the input channels."""
    assert hidden_width(c_in, expansion) == hidden


def test_random_is_uniform(tiny_space):
    """Chi-square over all 2304 architectures, five draws expected of each."""
    rng = np.random.default_rng(0)
    drawn = [tiny_space.random(rng) for _ in range(5 * tiny_space.size)]
    _, counts = np.unique([a.genes for a in drawn], axis=0, return_counts=True)
    missing = np.zeros(tiny_space.size - len(counts), dtype=int)
    assert stats.chisquare(np.concatenate([counts, missing])).pvalue > 0.001


@given(st.data())
def test_a_value_that_is_not_offered_is_named(data):
    """The message has the gene, its value and the choices."""
    i = data.draw(st.integers(0, len(PAPER.genes) - 1))
    gene = PAPER.genes[i]
    value = data.draw(st.integers(0, 3000).filter(lambda v: v not in gene.choices))
    genes = list(PAPER.smallest().genes)
    genes[i] = value
    arch = Arch.from_genes(genes)
    with pytest.raises(ValueError) as error:
        PAPER.check(arch)
    assert f"{gene.name} {value} is not offered in space 'attentive_nas'; it lists {list(gene.choices)}" in str(error.value)
    assert arch not in PAPER


def test_another_number_of_stages_is_named(tiny_space):
    """The message has both numbers of stages."""
    with pytest.raises(ValueError, match=r"7 stages, but space 'tiny' has 2: \['mb1', 'mb2'\]"):
        tiny_space.check(PAPER.smallest())


@pytest.mark.parametrize("n", [0, 3, 6, 8, 30])
def test_genes_of_impossible_length_are_refused(n):
    """n stages have 3 + 4 n genes, n >= 1."""
    with pytest.raises(ValueError, match=f"{n} genes"):
        Arch.from_genes([1] * n)


@pytest.mark.parametrize("name", ["attentive_nas", "glyphs", "smoke"])
def test_spaces_of_the_package(name):
    """Every space is named like its file, its size is the product over its genes, and its ends are in it."""
    space = load(FOLDER / f"{name}.yaml")
    assert space.name == name
    assert space.size == prod(len(g.choices) for g in space.genes)
    assert space.smallest() in space and space.largest() in space


def test_a_space_survives_the_round_trip_through_yaml(tmp_path, tiny_space):
    """The tiny space, written as YAML, is read back equal."""
    stages = [
        {axis: list(v) if isinstance(v := getattr(s, axis), tuple) else v for axis in s.__dataclass_fields__} for s in tiny_space.stages
    ]
    text = {"name": "tiny", "resolutions": [16, 20], "stem": {"widths": [8, 16], "stride": 2}, "stages": stages}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(text | {"head": {"widths": [32, 48], "expansion": 2}}))
    assert load(path) == tiny_space != replace(tiny_space, stem_stride=1)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("color",), "red", r"space\.yaml: unknown key 'color'; allowed are \['head'"),
        (("resolutions",), None, r"space\.yaml: the key 'resolutions' is missing"),
        (("stem", "width"), [8], r"space\.yaml: stem: unknown key 'width'"),
        (("stem", "stride"), 3, r"space\.yaml: stem\.stride: 1 or 2, not 3"),
        (("head", "expansion"), None, r"space\.yaml: head: the key 'expansion' is missing"),
        (("head", "expansion"), 0, r"space\.yaml: head\.expansion: positive whole numbers"),
        (("stages", 1, "kernels"), [3, 4], r"space\.yaml: stages\[1\]\.kernels: \[3, 4\]: kernel sides are odd"),
        (("stages", 2, "widths"), [40, 24], r"space\.yaml: stages\[2\]\.widths: .*ascending.*found \[40, 24\]"),
        (("stages", 2, "depths"), [1, 1], r"stages\[2\]\.depths: .*each once"),
        (("stages", 2, "depths"), [0, 1], r"stages\[2\]\.depths: positive"),
        (("stages", 2, "depths"), [1.5], r"stages\[2\]\.depths: .*whole numbers"),
        (("stages", 2, "expansions"), [], r"stages\[2\]\.expansions: .*found \[\]"),
        (("stages", 0, "stride"), True, r"stages\[0\]\.stride: 1 or 2, not True"),
        (("stages", 0, "se"), "yes", r"stages\[0\]\.se: true or false, not 'yes'"),
        (("stages", 1, "name"), "mb1", r"stages: two stages share a name"),
        (("stages", 3, "se"), None, r"stages\[3\]: the key 'se' is missing"),
        (("stages",), [], r"stages: a list of at least one stage is needed"),
        (("resolutions",), 16, r"resolutions: .*found 16"),
    ],
)
def test_a_wrong_entry_names_file_and_key(tmp_path, place, value, message):
    """One entry of attentive_nas.yaml changed or removed (None)."""
    content = yaml.safe_load(yaml.safe_dump(FILE))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    if value is None:
        del inner[place[-1]]
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=message):
        load(path)


def test_a_file_of_something_else_is_refused(tmp_path):
    """A list is not a search space."""
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n- 2\n")
    with pytest.raises(ValueError, match=r"list\.yaml: expected the keys"):
        load(path)


def test_a_missing_file_lists_the_files_beside_it():
    """The message has the key of params.yaml and the available files."""
    with pytest.raises(FileNotFoundError, match=r"params\.yaml: space: there is no file .*glyfs\.yaml; found .*glyphs\.yaml"):
        load(FOLDER / "glyfs.yaml")


def test_expansion_one_is_not_combined_with_others(tmp_path):
    """A block without expansion has no expansion layer, so it cannot share one with the others."""
    text = (FOLDER / "glyphs.yaml").read_text()
    (tmp_path / "mixed.yaml").write_text(text.replace("expansions: [3]", "expansions: [1, 3]"))
    with pytest.raises(ValueError, match=r"stages\[3\]\.expansions: \[1, 3\]: 1 cannot be combined"):
        load(tmp_path / "mixed.yaml")


@given(seeds)
def test_random_architectures_are_in_the_space(seed):
    """Whatever the seed."""
    assert PAPER.random(np.random.default_rng(seed)) in PAPER
