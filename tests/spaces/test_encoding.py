"""Architectures as JSON and as genes, both ways."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas.spaces import FOLDER, encoding, published
from nas.spaces.mbconv import load

PAPER = load(FOLDER / "attentive_nas.yaml")
archs = st.integers(0, 2**32).map(lambda seed: PAPER.random(np.random.default_rng(seed)))


@given(archs)
def test_json_and_back(arch):
    """Through text, as in a file."""
    assert encoding.from_json(json.loads(json.dumps(encoding.to_json(arch)))) == arch


def test_json_of_a_published_network():
    """AttentiveNAS-A1, first and last entries by hand."""
    found = encoding.to_json(published.find("AttentiveNAS-A1").arch)
    assert (found["resolution"], found["stem"], found["head"]) == (224, 16, 1984)
    assert found["stages"][3] == {"width": 64, "depth": 3, "kernel": 5, "expansion": 4}


@given(st.lists(archs, min_size=1, max_size=5))
def test_genes_and_back(some):
    """31 whole numbers each; from_genes is the inverse."""
    genes = encoding.to_genes(some)
    assert genes.shape == (len(some), 31) and genes.dtype == np.int64
    assert encoding.from_genes(genes) == some


def test_genes_by_hand():
    """AttentiveNAS-A0: resolution, nine widths, depths, kernels, expansions, as the paper's Table 2 lists them."""
    depths, kernels, expansions = [1, 3, 3, 3, 3, 3, 1], [3] * 7, [1, 4, 4, 4, 4, 6, 6]
    expected = [192, 16, 16, 24, 32, 64, 112, 192, 216, 1792, *depths, *kernels, *expansions]
    assert encoding.to_genes([published.find("AttentiveNAS-A0").arch]).tolist() == [expected]


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.pop("head"),
        lambda entry: entry.update(colour=3),
        lambda entry: entry["stages"][0].pop("kernel"),
        lambda entry: entry["stages"][0].update(side=3),
        lambda entry: entry.update(stages=None),
    ],
)
def test_json_of_something_else_is_refused(change):
    """A missing or unknown key raises, and the message shows the value."""
    entry = encoding.to_json(PAPER.smallest())
    change(entry)
    with pytest.raises(ValueError, match=r"not an architecture .*found \{"):
        encoding.from_json(entry)


def test_random_genes_are_uniform(tiny_space, rng):
    """Chi-square over all 2304 architectures."""
    genes = encoding.random_genes(tiny_space, 20 * tiny_space.size, rng)
    _, counts = np.unique(genes, axis=0, return_counts=True)
    assert len(counts) == tiny_space.size
    assert stats.chisquare(counts).pvalue > 0.001


def test_indices_select_the_values(tiny_space, tiny_rows):
    """The choices at the indices are the genes again."""
    index_array = encoding.indices(tiny_space, tiny_rows)
    back = np.stack([np.array(g.choices)[index_array[:, i]] for i, g in enumerate(tiny_space.genes)], axis=1)
    assert np.array_equal(back, tiny_rows)
    assert index_array.min() == 0 and (index_array.max(0) == [len(g.choices) - 1 for g in tiny_space.genes]).all()


@given(st.data())
def test_a_value_that_is_not_offered_is_named(data):
    """Any gene, also with a negative or huge value, is refused with its name."""
    i = data.draw(st.integers(0, 30))
    gene = PAPER.genes[i]
    value = data.draw(st.integers(-(2**40), 2**40).filter(lambda v: v not in gene.choices))
    genes = encoding.to_genes([PAPER.smallest(), PAPER.largest()])
    genes[1, i] = value
    with pytest.raises(ValueError) as error:
        encoding.indices(PAPER, genes)
    assert f"{gene.name} {value} is not offered" in str(error.value)


@pytest.mark.parametrize("shape", [(31,), (2, 30), (1, 2, 31)])
def test_genes_of_another_shape_are_refused(shape):
    """The message has both shapes."""
    with pytest.raises(ValueError, match=r"genes of shape .*needs \(n, 31\)"):
        encoding.indices(PAPER, np.zeros(shape, dtype=np.int64))
