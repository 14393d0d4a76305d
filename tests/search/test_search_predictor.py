"""The compiled forest against scikit-learn's."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestRegressor

from nas.search.predictor import Forest
from nas.spaces import encoding, mbconv

PAPER = mbconv.load(Path(mbconv.__file__).parent / "attentive_nas.yaml")


def top1_of(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A smooth accuracy with noise, percent."""
    unit = (rows - rows.mean(0)) / np.maximum(rows.std(0), 1)
    return 60 + unit @ rng.random(rows.shape[1]) + rng.normal(0, 0.3, len(rows))


@pytest.fixture(scope="module")
def measured() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = encoding.random_genes(PAPER, 256, rng)
    return rows, top1_of(rows, rng)


@pytest.fixture(scope="module")
def forest(measured) -> Forest:
    return Forest.fit(*measured, trees=30, max_depth=15, seed=3)


def test_predictions_equal_scikit_learns(measured, forest):
    """Compiled trees give the mean that RandomForestRegressor gives, on rows it has not seen."""
    rows = encoding.random_genes(PAPER, 1500, np.random.default_rng(1))
    theirs = RandomForestRegressor(30, max_depth=15, random_state=3).fit(*measured)
    np.testing.assert_allclose(forest.predict(rows), theirs.predict(rows), atol=1e-9)


def test_std_is_the_standard_deviation_over_trees(measured, forest):
    """The trees of scikit-learn's forest have the same standard deviation."""
    rows = measured[0][:50]
    theirs = RandomForestRegressor(30, max_depth=15, random_state=3).fit(*measured)
    trees = np.stack([tree.predict(rows) for tree in theirs.estimators_])
    np.testing.assert_allclose(forest.std(rows), trees.std(axis=0), atol=1e-9)


def test_prediction_and_std_in_one_walk(measured, forest):
    """Both equal the separate calls bit for bit."""
    both = forest.predict_with_std(measured[0])
    assert np.array_equal(both[:, 0], forest.predict(measured[0])) and np.array_equal(both[:, 1], forest.std(measured[0]))


def test_fewer_features_are_scikit_learns(measured):
    """A share of the genes at each question, as `max_features` of RandomForestRegressor."""
    theirs = RandomForestRegressor(5, max_depth=6, random_state=1, max_features=0.3).fit(*measured)
    ours = Forest.fit(*measured, trees=5, max_depth=6, seed=1, features=0.3)
    np.testing.assert_allclose(ours.predict(measured[0]), theirs.predict(measured[0]), atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(2, 40),
    genes=st.integers(1, 5),
    values=st.integers(1, 6),
    depth=st.integers(1, 8),
    trees=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_any_forest_compiles(n, genes, values, depth, trees, seed):
    """Stumps, constant features and trees of one leaf predict as scikit-learn does."""
    rng = np.random.default_rng(seed)
    rows, top1 = rng.integers(values, size=(n, genes)), rng.random(n)
    theirs = RandomForestRegressor(trees, max_depth=depth, random_state=seed).fit(rows, top1)
    queries = rng.integers(-1, values + 1, size=(30, genes))
    np.testing.assert_allclose(Forest.compile(theirs).predict(queries), theirs.predict(queries), atol=1e-9)


def test_a_single_tree_done_by_hand():
    """Two groups of rows, 0 and 10, apart in gene 1: the trees split there, so 5 and less is 0, more is 10."""
    rows = np.array([[1, 0]] * 20 + [[1, 10]] * 20)
    forest = Forest.fit(rows, np.repeat([20.0, 80.0], 20), trees=5, max_depth=3, seed=0)
    assert forest.predict(np.array([[1, 4], [1, 5], [1, 6], [9, 99]])).tolist() == [20, 20, 80, 80]


def test_rows_are_independent_of_their_chunk(forest):
    """A row's prediction does not depend on the chunk that it is in."""
    rows = encoding.random_genes(PAPER, 1100, np.random.default_rng(2))
    alone = np.concatenate([forest.predict(rows[i : i + 7]) for i in range(0, len(rows), 7)])
    assert np.array_equal(forest.predict(rows), alone)


def test_no_rows_give_no_predictions(forest):
    """(0, genes) -> (0,)."""
    assert forest.predict(np.empty((0, len(PAPER.genes)), int)).shape == (0,)


def test_save_and_load_keep_every_prediction(forest, tmp_path):
    """What is loaded predicts bit for bit what was saved."""
    rows = encoding.random_genes(PAPER, 100, np.random.default_rng(4))
    forest.save(tmp_path / "forest.npz")
    assert np.array_equal(Forest.load(tmp_path / "forest.npz").predict(rows), forest.predict(rows))


def test_the_same_fit_writes_the_same_bytes(measured, forest, tmp_path):
    """Fitted twice and saved at another time: the files are equal, and carry no time of day."""
    forest.save(tmp_path / "a.npz")
    Forest.fit(*measured, trees=30, max_depth=15, seed=3).save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert {info.date_time for info in zipfile.ZipFile(tmp_path / "a.npz").infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "other arrays", "pickle"])
def test_a_broken_file_is_named(forest, tmp_path, damage):
    """Every way a file can be broken ends in one error that names it and says how to make it anew."""
    path = tmp_path / "forest.npz"
    forest.save(path)
    match damage:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        case "text":
            path.write_text("not a predictor")
        case "empty":
            path.write_bytes(b"")
        case "other arrays":
            np.savez(path, roots=np.zeros(1))
        case "pickle":
            np.savez(path, **{name: np.array([{}], dtype=object) for name in Forest.__dataclass_fields__})
    with pytest.raises(ValueError, match=r"forest\.npz is not a complete predictor file.*fit_predictor"):
        Forest.load(path)


def test_a_missing_file_is_not_a_damaged_one(tmp_path):
    """No file: FileNotFoundError, not advice about a damaged one."""
    with pytest.raises(FileNotFoundError):
        Forest.load(tmp_path / "forest.npz")


def test_rows_of_another_space_are_refused(forest):
    """19 genes for a predictor of 31: both lengths are named."""
    with pytest.raises(ValueError, match=r"\(5, 19\).*\(n, 31\)"):
        forest.predict(np.zeros((5, 19)))


@pytest.mark.parametrize(
    ("rows", "top1", "message"),
    [
        (np.zeros((3, 2)), np.zeros(2), "raise params.yaml pretrain.subnetworks"),
        (np.zeros((1, 2)), np.zeros(1), "n >= 2"),
        (np.zeros((3, 2)), np.array([1, np.nan, 2]), "sub-network 1 is NaN or infinite"),
    ],
)
def test_invalid_measurements_are_refused(rows, top1, message):
    """Wrong shapes, too few sub-networks and broken measurements are named."""
    with pytest.raises(ValueError, match=message):
        Forest.fit(rows, top1)
