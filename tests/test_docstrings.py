"""What docs promise of public functions: whoever takes tensors says their shapes, whoever has a formula its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src" / "saccade"
WHOLE = ("layers", "losses", "ops")  # folders in which every function that takes tensors gives shapes
IN_ALL = 0.8  # share elsewhere
PLAIN = {  # public names of those folders without a formula of anybody's: checks, tables, layouts, ways of computing
    "layers/anchors.py": {"shapes_of", "cell_step", "sides_of_boxes"},
    "layers/cells.py": {"at_places"},
    "layers/classification.py": {"logits_of", "classification_predictions"},
    "layers/conv.py": {"half", "scaled", "refuse_small"},
    "layers/detections.py": {"FixedAnswers", "Limits"},
    "layers/embedding.py": {"embedding_answers"},
    "layers/frozen_norm.py": {"freeze_norms"},
    "layers/layout.py": {"Flat", "join", "adaptive_pool", "whole_gradient"},
    "layers/maps.py": {"Maps", "Pooled"},
    "layers/masks.py": {"MaskTargets"},
    "layers/normalize.py": {"fill_padding", "fill_beyond", "mean_colour"},
    "layers/proposing.py": {"AnchorOutputs"},
    "layers/regions.py": {"RegionOutputs", "given_regions", "foreground", "decode_answers"},
    "layers/sampling.py": {"Drawn"},
    "layers/stages.py": {  # what others compute, put beside each other to be drawn
        *("BoxStage", "given_stage", "windows_stage", "proposal_stages", "found_targets", "matched_stage"),
        *("best_region", "aligned_bins", "pooled_bins", "pyramid_bins", "suppression_stages", "scored_stage"),
        *("answer_stage", "SecondStage"),
    },
    "layers/targets.py": {"RegionTargets", "Learnable", "detection_targets", "learnable"},
    "losses/classification.py": {"Objective", "parts_of", "label_tensor", "tag_tensor", "label_loss", "tag_loss"},
    "losses/embedding.py": {"products", "squared_distances", "same_identity", "mean_over_kinds"},
    "losses/heatmap.py": {"stack_joints"},
    "losses/segmentation.py": {"stack_targets"},
    "ops/allocation.py": {"empty"},
    "ops/boxes.py": {"box_area", "intersection_area", "clip_boxes", "valid_boxes"},
    "ops/compiled.py": {"compiled", "compiled_as_numpy"},
    "ops/conv_gradients.py": {"mend"},
    # What KITTI means by a cuboid stands at the head of the file; these are rotations and projections.
    "ops/cuboids.py": {
        *("offsets", "corners", "project", "edges_seen", "projected_boxes", "wrap", "mirrored", "turns_over"),
        *("moved_camera", "observation_angles"),
    },
    "ops/distance.py": {"distance_inside", "settled"},
    "ops/fused_conv.py": {"FusedConv2d", "activate", "can_fuse", "has_fused_operators"},
    "ops/roi_align.py": {"to_rois", "check_values"},
    "ops/roi_pool.py": {"Maxima"},
    "ops/selective_search.py": {"Regions"},
    "ops/suppression.py": {"nms_rule", "rule_of"},
    "ops/threads.py": {"in_threads"},
    "ops/winograd.py": {"is_faster"},
}
YEAR = re.compile(r"\b(19|20)\d\d\b")
PLACE = re.compile(r"\b(section|equation|figure|algorithm|appendix|table) \w", re.IGNORECASE)


def takes_tensors(function: ast.FunctionDef) -> bool:
    arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    hints = [ast.unparse(a.annotation) for a in arguments if a.annotation is not None]
    return any(re.search(r"\bTensor\b|\bndarray\b", hint) for hint in hints)


def public_functions(path: Path) -> Iterator[tuple[str, str]]:
    """Place and docstring of what takes tensors; of `forward` with the docstring of its class."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            inside, about = node.body, ast.get_docstring(node) or ""
        else:
            inside, about = [node], ""
        for function in inside:
            if isinstance(function, ast.FunctionDef) and not function.name.startswith("_") and takes_tensors(function):
                own = ast.get_docstring(function) or ""
                where = f"{path.relative_to(SOURCE).as_posix()}:{function.lineno} {function.name}"
                yield where, own + (about if function.name == "forward" else "")


def test_shapes_stand_in_docstrings() -> None:
    found = [function for path in sorted(SOURCE.rglob("*.py")) for function in public_functions(path)]
    lacking = [where for where, text in found if "[" not in text]
    assert [where for where in lacking if where.startswith(WHOLE)] == []
    assert len(lacking) <= (1 - IN_ALL) * len(found), "\n".join(lacking)


def docs_inside(node: ast.AST) -> str:
    """The docstrings of a function, or of a class with its methods."""
    parts = (each for each in ast.walk(node) if isinstance(each, ast.FunctionDef | ast.ClassDef))
    return " ".join(ast.get_docstring(each) or "" for each in parts)


def test_formulas_name_their_sources() -> None:
    """Who and when, or the place in the paper that the head of the file names."""
    lacking, plain = [], {path: set(names) for path, names in PLAIN.items()}
    for path in (path for folder in WHOLE for path in sorted((SOURCE / folder).glob("*.py"))):
        tree, where = ast.parse(path.read_text(encoding="utf-8")), path.relative_to(SOURCE).as_posix()
        of_one_paper = YEAR.search(ast.get_docstring(tree) or "")
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                text = docs_inside(node)
                if YEAR.search(text) or (of_one_paper and PLACE.search(text)):
                    continue
                if node.name in plain.get(where, set()):
                    plain[where].remove(node.name)
                else:
                    lacking.append(f"{where}:{node.lineno} {node.name}")
    assert lacking == [], "each needs the paper, or the released code, of its formula; or a place in PLAIN"
    assert {path: names for path, names in plain.items() if names} == {}, "these are gone, or name a source by now"
