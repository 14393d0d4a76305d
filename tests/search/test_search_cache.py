"""The score cache: by architecture, by weights, across processes that were killed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.search.archive import ScoreCache, row_keys

ROW = np.array([192, 16, 8])


def test_keys_distinguish_rows(tiny_rows):
    """2304 architectures have 2304 keys, the same for the same row in another type or order."""
    keys = row_keys(tiny_rows)
    assert len(set(keys)) == len(tiny_rows)
    assert row_keys(np.asfortranarray(tiny_rows[::-1].astype(np.int32))) == keys[::-1] and row_keys(tiny_rows[:0]) == []


def test_a_score_belongs_to_its_weights(tmp_path):
    """The same architecture with other weights is not known."""
    ScoreCache("early", tmp_path / "scores.jsonl").put(ROW, 71.0)
    assert ScoreCache("early", tmp_path / "scores.jsonl").get(ROW) == 71.0
    assert ScoreCache("final", tmp_path / "scores.jsonl").get(ROW) is None
    assert ScoreCache("early").get(ROW) is None


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_scores_come_back_bit_for_bit(tmp_path_factory, scores):
    """Any finite number, and the last of several for one architecture."""
    path = tmp_path_factory.mktemp("cache") / "scores.jsonl"
    cache = ScoreCache("w", path)
    for i, score in enumerate(scores):
        cache.put(ROW + i, score)
        cache.put(ROW - 1, score)
    reopened = ScoreCache("w", path)
    assert [reopened.get(ROW + i) for i in range(len(scores))] == scores and reopened.get(ROW - 1) == scores[-1]
    assert len(reopened) == len(scores) + 1


def test_an_incomplete_line_is_dropped(tmp_path):
    """Killed in the middle of the second score: the first is read, the next one starts on a new line."""
    path = tmp_path / "scores.jsonl"
    ScoreCache("w", path).put(ROW, 1.5)
    with open(path, "a") as file:
        file.write('{"weights": "w", "genes": [1, 2')
    ScoreCache("w", path).put(ROW + 1, 2.5)
    reopened = ScoreCache("w", path)
    assert (reopened.get(ROW), reopened.get(ROW + 1), len(reopened)) == (1.5, 2.5, 2)


@pytest.mark.parametrize("line", ["top1,mflops", '{"weights": "w"}', '{"weights": "w", "genes": ["a"], "score": 1}', "[]"])
def test_another_file_is_refused(tmp_path, line):
    """The message names the file and the line."""
    path = tmp_path / "scores.jsonl"
    ScoreCache("w", path).put(ROW, 1.5)
    with open(path, "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"scores\.jsonl, line 2 is not a score"):
        ScoreCache("w", path)
