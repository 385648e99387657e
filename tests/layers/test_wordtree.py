from __future__ import annotations

import pytest
import torch

from saccade.data.types import Objects
from saccade.errors import UsageError
from saccade.layers.wordtree import WordTree, lifted, nearest_known

# animal (dog (terrier, hound), cat), vehicle
PARENTS = (-1, 0, 1, 1, 0, -1)


def test_probabilities_are_products_along_the_path() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.5, 0.7, -0.2], [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    found = WordTree(PARENTS)(logits).exp()
    for x, p in zip(logits, found, strict=True):
        animal, vehicle = x[[0, 5]].softmax(0)
        dog, cat = x[[1, 4]].softmax(0)
        terrier, hound = x[[2, 3]].softmax(0)
        expected = [animal, animal * dog, animal * dog * terrier, animal * dog * hound, animal * cat, vehicle]
        torch.testing.assert_close(p, torch.stack(expected))


def test_flat_tree_is_a_softmax_and_large_logits_stay_finite() -> None:
    logits = torch.randn(2, 3, 5)
    torch.testing.assert_close(WordTree((-1,) * 5)(logits), logits.log_softmax(-1))
    assert WordTree(PARENTS)(torch.tensor([1e4, -1e4, 1e4, -1e4, 1e4, -1e4])).isfinite().all()


def test_gradients_are_right() -> None:
    logits = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(WordTree(PARENTS), (logits,))


def test_a_sure_child_answers_in_place_of_its_parents() -> None:
    tree = WordTree(PARENTS)
    p = torch.tensor([0.9, 0.8, 0.3, 0.5, 0.1, 0.1])
    assert tree.deepest(p, 0.6).tolist() == pytest.approx([0, 0.8, 0.3, 0.5, 0.1, 0.1])
    assert tree.deepest(p, 0.5).tolist() == pytest.approx([0, 0, 0.3, 0.5, 0.1, 0.1])
    assert tree.deepest(p, 0.95).tolist() == pytest.approx(p.tolist())


@pytest.mark.parametrize(
    ("parents", "says"),
    [((1, 2, 0), "class 0 of the tree is its own ancestor: 0 -> 1 -> 2 -> 0"), ((-1, 7), "class 1 .* has parent 7")],
)
def test_what_is_no_tree_is_refused(parents: tuple[int, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        WordTree(parents)


def test_kinds_of_what_the_truth_knows_count_as_that() -> None:
    above = nearest_known(PARENTS, {1, 4})
    assert above.tolist() == [0, 1, 1, 1, 4, 5]
    box, far = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]
    found = Objects(
        torch.tensor([box, box, far, box, box]),
        torch.tensor([3, 2, 3, 4, 0]),  # hound, terrier, another hound, cat, animal
        torch.tensor([0.2, 0.6, 0.3, 0.5, 0.1]),
    )
    answer = lifted(found, above, 0.5)
    assert answer.scores is not None
    rows = zip(answer.labels.tolist(), answer.scores.tolist(), answer.boxes[:, 0].tolist(), strict=True)
    expected = [(0, 0.1, 0.0), (1, 0.3, 50.0), (1, 0.6, 0.0), (4, 0.5, 0.0)]
    assert [pytest.approx(row) for row in sorted(rows)] == expected


def test_answers_stay_as_they_are_where_the_truth_knows_their_classes() -> None:
    found = Objects(torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9]]), torch.tensor([2, 2]), torch.tensor([0.9, 0.8]))
    assert lifted(found, nearest_known(PARENTS, {2, 3}), 0.5) is found
