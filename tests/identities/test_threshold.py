"""Thresholds for a stated false-accept rate: from people, from a run's curve, from strangers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from saccade.errors import DataError, ModelFileError, UsageError
from saccade.identities.threshold import of_one_of, of_people, of_run, of_strangers, per_comparison
from saccade.metrics.identification import score_embeddings


def made_people(count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.normal(size=(count, 16)), 6, axis=0)
    return centres + 0.7 * rng.normal(size=centres.shape), [f"p{i // 6}" for i in range(6 * count)]


def test_a_run_s_curve_gives_what_its_people_give(tmp_path: Path) -> None:
    embeddings, people = made_people(40, 0)
    direct = of_people(embeddings, people, 1e-2)
    assert direct.interval == "bootstrap over people"
    assert direct.far <= 1e-2
    assert direct.far_low < direct.far < direct.far_high
    result = score_embeddings([str(i) for i in range(240)], people, embeddings, bootstrap=0).to_json()
    (tmp_path / "metrics.json").write_text(json.dumps(result))
    kept = of_run(tmp_path, 1e-2)
    assert kept.threshold >= direct.threshold  # a thinned curve errs to the strict side
    assert kept.threshold == pytest.approx(direct.threshold, abs=0.01)
    assert 0.7e-2 < kept.far <= 1e-2
    assert kept.different == direct.different
    with pytest.raises(DataError, match="cannot show a false-accept rate of 1e-06"):
        of_run(tmp_path, 1e-6)
    (tmp_path / "metrics.json").write_text('{"curves": {"confusion": 1}}')
    with pytest.raises(UsageError, match="--calibrate FOLDER"):
        of_run(tmp_path, 1e-2)
    for text in ("{", '{"curves": {"roc": {"threshold": [1], "far": [], "tar": [], "same": 1, "different": 2}}}'):
        (tmp_path / "metrics.json").write_text(text)
        with pytest.raises(ModelFileError, match="damaged"):
            of_run(tmp_path, 1e-2)
    with pytest.raises(UsageError, match=r"no metrics\.json"):
        of_run(tmp_path / "lone.safetensors", 1e-2)


def test_strangers_are_let_in_as_often_as_stated() -> None:
    scores = np.linspace(0, 1, 200)
    found = of_strangers(scores, 0.05)
    assert (scores >= found.threshold).sum() == 10
    assert found.far_low < found.far == 0.05 < found.far_high
    with pytest.raises(DataError, match="at least 1000 are needed"):
        of_strangers(scores, 1e-3)


def test_many_comparisons_make_a_mistake_likely() -> None:
    assert of_one_of(0.01, 100) == pytest.approx(1 - 0.99**100)
    assert per_comparison(of_one_of(0.01, 100), 100) == pytest.approx(0.01)
    assert per_comparison(0.01, 1) == pytest.approx(0.01)
