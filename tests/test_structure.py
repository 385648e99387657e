"""The rules of docs/architecture.md that a machine can hold: who may import whom, sizes, one level of inheritance, no
way to run a file's content, docstrings, and nothing that names the machine on which it was written."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from saccade.tasks.table import TASKS

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "saccade"
FILES = sorted(SOURCE.rglob("*.py"))

# The order of the house, lowest first: a file may import what stands before its own part in this list, and its own
# part. The longest name that a file's place starts with counts; what is loose at the top is the command line's.
ORDER = (
    *("errors", "ranges", "version", "machine", "checkpoint", "config", "ops"),
    *("data/joints", "data/types", "tasks/table"),
    *(
        "data/dataset",
        "data",
        "losses",
        "layers",
        "solvers/linear",
        "models",
        "metrics",
        "plots",
        "tasks",
        "inference",
        "solvers",
        "identities",
    ),
    "training",
    *("explanations", "experiments", "reports", "verbs", "cli"),
)
# Parts that may import less than what stands below them.
NARROW: dict[str, set[str]] = {
    "ops": {"errors"},
    "data/joints": set(),
    "data/types": {"data/joints"},
    "data/dataset": {"data/joints", "tasks/table"},
    "data": {"errors", "config", "machine", "ops", "data/joints", "data/types", "data/dataset", "tasks/table"},
    "losses": {"errors", "ranges", "data/types", "ops"},
    "layers": {"errors", "data/types", "ops", "losses"},
    "solvers/linear": {"errors", "tasks/table"},
    "models": {
        *("errors", "ranges", "machine", "checkpoint", "config"),
        *("data/types", "ops", "layers", "losses", "solvers/linear"),
    },
    "metrics": {"errors", "ops", "tasks/table", "data/joints", "data/types", "data/dataset", "data"},
    "identities": {"errors", "machine", "metrics"},
    "plots": {"ops", "data/joints", "data/types", "data/dataset", "data"},
}
FRONT = (
    "cli",
    "cli_data",
    "cli_faces",
    "cli_habits",
    "cli_files",
    "cli_start",
    "cli_options",
    "cli_output",
    "__main__",
    "__init__",
)  # loose files, all of the front door
PARAMETERS = 7
PAPERS_FILE = 650  # lines of a file that holds one paper's system
OTHER_FILE = 400
FUNCTION = 60
CONTRACT = {"Config", "Model", "adapt"}  # of a model file, described once in docs/architecture.md
NETWORK = {"requests", "urllib", "http", "httpx", "aiohttp", "ftplib", "socket", "ssl"}  # in machine/download.py alone
# The geometry of a sampling grid is numbers, which compiled kernels take one by one.
MANY = {
    *(
        f"ops/roi_align.py: {function}"
        for function in ("roi_align_levels", "roi_align_reference", "roi_align_compiled")
    ),
    "layers/conv.py: __init__",  # as many as nn.Conv2d's own
    "inference/onnx_file.py: _roi_align",  # as many as the operation that it translates
    *("ops/roi_align.py: _", "ops/roi_pool.py: _scan", "ops/nms.py: _suppressed"),
}
# Files besides tasks/ that may compare the name of a task.
TASK_NAMES = {
    # One label and tags have two formulas, of the loss and of the answer; these files choose.
    *("losses/classification.py", "layers/classification.py"),
    # The published forms end in a ReLU: softmax can live with that, a logistic output of 0 or more could never say no.
    *("models/backbones/nin.py", "models/backbones/squeezenet.py"),
}
RUNS = {"models/own_file.py: exec", "models/own_file.py: compile"}  # a file of Python that the user named by its path
LOOPS = {"verbs/train.py: _fit"}  # the training loop reads top to bottom in one piece


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def place(module: str) -> str:
    """`saccade.data.types` or its folder as `data/types`; "" for the package itself."""
    return "/".join(module.split(".")[1:])


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a file imports, `from a import b` as `a.b` where b is a module."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: a relative import"
            module = str(node.module)
            for alias in node.names:
                inner = SOURCE / place(f"{module}.{alias.name}")
                is_module = module.split(".")[0] == "saccade" and (inner.is_dir() or inner.with_suffix(".py").is_file())
                yield node.lineno, f"{module}.{alias.name}" if is_module else module


def within(what: str, part: str) -> bool:
    return what == part or what.startswith(part + "/")


def part_of(what: str) -> str | None:
    """The part of the house that a file or folder belongs to; None for a file that nobody gave a place."""
    if what in FRONT:
        return "cli"
    return max((part for part in ORDER if within(what, part)), key=len, default=None)


def test_every_file_has_a_direction() -> None:
    assert not [name(path) for path in FILES if part_of(name(path).removesuffix(".py")) is None]


def test_imports_go_one_way() -> None:
    faults = []
    for path in FILES:
        part = part_of(name(path).removesuffix(".py"))
        assert part is not None
        below = NARROW.get(part, set(ORDER[: ORDER.index(part)])) | {part}
        for line, module in imports(path):
            if module.split(".")[0] != "saccade" or name(path) == "__init__.py":
                continue
            other = part_of(place(module)) if place(module) else "the face of the package"
            if other not in below:
                faults.append(f"{name(path)}:{line} imports {module} of {other}; {part} may import {sorted(below)}")
    assert not faults, "\n".join(faults)


def test_verbs_are_imported_by_the_command_line_alone() -> None:
    """And by the package's own front (`saccade.train`); `train` evaluates, `transfer` does both, `demo` shows all."""
    allowed = {
        "cli.py": "verbs",
        "cli_data.py": "verbs",
        "cli_faces.py": "verbs",
        "cli_files.py": "verbs",
        "cli_output.py": "verbs",
        "__init__.py": "verbs",
        "verbs/demo.py": "verbs",
        "verbs/train.py": "verbs/evaluate",
        "verbs/transfer.py": "verbs",
    }
    faults = [
        f"{name(path)}:{line} imports {module}"
        for path in FILES
        for line, module in imports(path)
        if within(place(module), "verbs") and not within(place(module), allowed.get(name(path), "nothing"))
    ]
    assert not faults, "\n".join(faults)


def test_among_models_a_newer_paper_may_import_an_older_one_never_back() -> None:
    """Everyone may build on backbones, which know none of the others; in one room the year of the paper decides."""
    years = {}
    for path in (SOURCE / "models").glob("*/*.py"):
        for node in tree(path).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PAPER":
                years[name(path).removesuffix(".py")] = _first_year(node.value)
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "PAPER" and node.value is not None:
                years[name(path).removesuffix(".py")] = _first_year(node.value, tree(path))
    rooms = {name(path).removesuffix(".py") for path in (SOURCE / "models").glob("*/*.py") if path.stem != "__init__"}
    assert set(years) == rooms
    faults = []
    for own, year in years.items():
        for line, module in imports(SOURCE / f"{own}.py"):
            other = place(module)
            if other in years:
                same_room = Path(own).parent == Path(other).parent
                back = years[other] > year if same_room else within(own, "models/backbones")
                if back:
                    faults.append(f"{own}.py:{line} ({year}) imports {module} ({years[other]})")
    assert not faults, "\n".join(faults)


def _first_year(papers: ast.expr, file: ast.Module | None = None) -> int:
    """The year of the paper; of a file that serves several, that of the first: no older file may need it.

    A dictionary may hold the papers themselves or names of the file for them.
    """
    calls = [node for node in ast.walk(papers) if isinstance(node, ast.Call) and _last(node.func) == "Paper"]
    names = {node.id for node in ast.walk(papers) if isinstance(node, ast.Name)}
    for node in file.body if file is not None else []:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in names and isinstance(node.value, ast.Call):
            calls.append(node.value)
    return min(int(ast.unparse(k.value)) for call in calls for k in call.keywords if k.arg == "year")


def _branch_on_a_task(node: ast.AST) -> str | None:
    """A comparison of a task with names, a dictionary by names of tasks, or a match; None for anything else."""

    def named_task(side: ast.expr) -> bool:
        return _last(side) == "task"

    def names(side: ast.expr) -> bool:
        parts = side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else [side]
        return bool(parts) and all(isinstance(part, ast.Constant) and part.value in TASKS for part in parts)

    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        return ast.unparse(node) if any(map(named_task, sides)) and any(map(names, sides)) else None
    if isinstance(node, ast.Dict):
        keys = [key for key in node.keys if key is not None]
        return ast.unparse(node)[:60] if keys and all(map(names, keys)) else None
    if isinstance(node, ast.Match) and named_task(node.subject):
        return f"match {ast.unparse(node.subject)}"
    return None


def test_what_depends_on_the_task_stands_in_its_file() -> None:
    """Parts below tasks/ read the fields of its entry in tasks/table.py, all others ask `task_of(name)`."""
    faults = [
        f"{name(path)}:{getattr(node, 'lineno', 0)}: {fault}"
        for path in FILES
        if not name(path).startswith("tasks/") and name(path) not in TASK_NAMES
        for node in ast.walk(tree(path))
        if (fault := _branch_on_a_task(node))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('task == "detect"', True),
        ('plan.task not in ("classify", "tag")', True),
        ('"segment" != self.task', True),
        ('{"detect": 0.3, "instances": 0.3}', True),
        ("task in module.TASKS", False),
        ('{"label": 1, "tags": 2}', False),
        ("task is None", False),
    ],
)
def test_the_rule_of_tasks_sees_what_it_should(line: str, found: bool) -> None:
    assert (_branch_on_a_task(ast.parse(line, mode="eval").body) is not None) == found


def test_files_and_functions_are_short() -> None:
    faults = []
    for path in FILES:
        lines = path.read_text(encoding="utf-8").count("\n")
        limit = PAPERS_FILE if path.parent.parent.name == "models" and path.name != "__init__.py" else OTHER_FILE
        if lines > limit:
            faults.append(f"{name(path)}: {lines} lines, allowed {limit}")
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef) and f"{name(path)}: {node.name}" not in LOOPS:
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > FUNCTION:
                    faults.append(f"{name(path)}:{node.lineno} {node.name}: {length} lines, allowed {FUNCTION}")
                count = _parameters(node, options_count=not name(path).startswith(("verbs/", "cli")))
                if count > PARAMETERS and f"{name(path)}: {node.name}" not in MANY:
                    faults.append(f"{name(path)}:{node.lineno} {node.name}: {count} parameters, allowed {PARAMETERS}")
    assert not faults, "\n".join(faults)


def _parameters(node: ast.FunctionDef, options_count: bool) -> int:
    """How many arguments a caller may give; of a verb and of a command its options are not counted."""
    own = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
    command = any("command" in ast.unparse(decorator) for decorator in node.decorator_list)
    return 0 if command else len(own) + (len(node.args.kwonlyargs) if options_count else 0)


def _last(node: ast.expr) -> str:
    """`nn.Module` -> Module, `Protocol[T]` -> Protocol."""
    node = node.value if isinstance(node, ast.Subscript) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "?")


def test_inheritance_is_one_deep() -> None:
    """Models and layers derive from nn.Module (or torch's own forms of it) or nothing, and protocols describe them;
    elsewhere stand exceptions and torch.autograd.Function besides, and an answer, which is an annotation with names."""
    own = {n.name for path in FILES for n in ast.walk(tree(path)) if isinstance(n, ast.ClassDef)} - {"SaccadeError"}
    allowed = {"Module", "Protocol", "Exception", "SaccadeError", "Function", "NamedTuple", "TypedDict", "Annotation"}
    allowed |= {"DataLoader", "_MultiProcessingDataLoaderIter"}  # torch's, to wait for workers (data/loader.py)
    of_networks = {"Module", "Function", "Protocol", "TorchFunctionMode"}  # the last: models/dry_run.py
    faults = []
    for path in FILES:
        permitted = of_networks if name(path).startswith(("models/", "layers/")) else allowed
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    torchs_own = isinstance(base, ast.Attribute) and _last(base) not in own
                    torchs_own = torchs_own and ast.unparse(base).startswith(("nn.", "torch.nn."))
                    if _last(base) not in permitted and not torchs_own:
                        faults.append(f"{name(path)}:{node.lineno} {node.name}({ast.unparse(base)})")
    assert not faults, "\n".join(faults)


def test_no_drawers_for_everything_and_no_torchvision() -> None:
    drawers = [name(p) for p in FILES if p.stem in ("utils", "util", "misc", "helpers", "common")]
    assert not drawers
    forbidden = {"torchvision", "pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "tarfile"}
    forbidden |= NETWORK
    faults = [
        f"{name(path)}:{line} imports {module}"
        for path in FILES
        for line, module in imports(path)
        if module.split(".")[0] in forbidden - (NETWORK if name(path) == "machine/download.py" else set())
    ]
    assert not faults, "\n".join(faults)


def _call_fault(node: ast.Call) -> str | None:
    called = ast.unparse(node.func)
    keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
    if called in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
        return called
    if called == "torch.load" and keywords.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if called in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
        return None if keywords.get("Loader") in ("yaml.BaseLoader", "yaml.SafeLoader") else called
    if called == "Image.open" and "formats" not in keywords:
        return "Image.open without formats, which starts Ghostscript for an EPS"
    if _last(node.func) in ("extractall", "urlopen", "urlretrieve") or called.startswith("torch.hub."):
        return called
    if called in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
        return "numpy.load with pickles"
    return "shell=True" if keywords.get("shell") == "True" else None


def test_nothing_runs_what_a_file_says() -> None:
    faults = []
    for path in FILES:
        for node in ast.walk(tree(path)):
            fault = _call_fault(node) if isinstance(node, ast.Call) else None
            if isinstance(node, ast.Constant) and node.value == "0.0.0.0":
                fault = "an address that the whole network reaches"
            if fault:
                faults.append(f"{name(path)}:{getattr(node, 'lineno', 0)}: {fault}")
    runs = {fault for fault in faults if re.sub(r":\d+:", ":", fault) in RUNS}
    assert len(runs) == len(RUNS)
    assert set(faults) == runs, "\n".join(set(faults) - runs)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("eval(x)", "eval"),
        ("model.eval()", None),
        ("torch.load(p)", "torch.load without weights_only=True"),
        ("torch.load(p, weights_only=False)", "torch.load without weights_only=True"),
        ("torch.load(p, weights_only=True)", None),
        ("yaml.load(p)", "yaml.load"),
        ("yaml.load(p, Loader=yaml.Loader)", "yaml.load"),
        ("yaml.load(p, Loader=yaml.BaseLoader)", None),
        ("yaml.safe_load(p)", None),
        ("subprocess.run(c, shell=True)", "shell=True"),
        ("archive.extractall(p)", "archive.extractall"),
        ("np.load(p, allow_pickle=True)", "numpy.load with pickles"),
        ("torch.hub.load(p, m)", "torch.hub.load"),
        ("Image.open(p)", "Image.open without formats, which starts Ghostscript for an EPS"),
        ("Image.open(p, formats=FORMATS)", None),
    ],
)
def test_the_rule_sees_what_it_should(line: str, fault: str | None) -> None:
    call = ast.parse(line, mode="eval").body
    assert isinstance(call, ast.Call)
    assert _call_fault(call) == fault


def test_libraries_start_where_their_known_holes_are_closed() -> None:
    """Pillow: CVE-2026-112403 (JPEG); torch: CVE-2025-32434 and CVE-2026-24747 (weights_only); onnx: CVE-2026-34447."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = [line for part in (project["dependencies"], *project["optional-dependencies"].values()) for line in part]
    parts = [line.split(">=") for line in stated if ">=" in line]
    floors = {name: [int(number) for number in f"{low}.0".split(".")[:2]] for name, low in parts}
    for name, least in {"pillow": [13, 0], "torch": [2, 10], "onnx": [1, 21], "Jinja2": [3, 1]}.items():
        assert floors[name] >= least, name


def test_everything_public_says_what_it_is() -> None:
    """Modules, classes and functions, but for what every model file has by its contract."""
    faults = []
    for path in FILES:
        if path.read_text(encoding="utf-8").strip() and ast.get_docstring(tree(path)) is None:
            faults.append(f"{name(path)}: no docstring")
        for node in tree(path).body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
                continue
            contract = path.parent.parent.name == "models" and node.name in CONTRACT
            if ast.get_docstring(node) is None and not contract:
                faults.append(f"{name(path)}:{node.lineno} {node.name}")
    assert not faults, "\n".join(faults)


def test_names_are_the_words_of_the_field() -> None:
    """`prediction`, `facts`, `correct`: what is said and told stays in sentences; right is a side."""
    faults = []
    for path in [*FILES, *sorted((ROOT / "tests").rglob("*.py"))]:
        for node in ast.walk(tree(path)):
            stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            name_of = node.id if stored else node.arg if isinstance(node, ast.arg) else getattr(node, "name", None)
            if name_of in ("said", "told"):
                faults.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {name_of}")
    assert not faults, "\n".join(faults)


def test_signatures_take_no_loose_words() -> None:
    """`**kwargs` hides what a constructor takes; only `train`, whose settings are dataclass fields, passes words on."""
    faults = []
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef) and node.args.kwarg is not None and node.name == "__init__":
                faults.append(f"{name(path)}:{node.lineno} {node.name}(**{node.args.kwarg.arg})")
    assert not faults, "\n".join(faults)


def test_detectors_end_in_the_suppression_that_was_asked_for() -> None:
    """`--nms soft` reaches every detector because none calls the greedy NMS by itself (ops/suppression.py)."""
    last = {"saccade.ops.nms.nms", "saccade.ops.nms.batched_nms"}
    faults = [
        f"{name(path)}:{node.lineno} imports {alias.name}; detectors end in layers/detections.py: best_objects"
        for path in FILES
        if not name(path).startswith("ops/")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if f"{node.module}.{alias.name}" in last
    ]
    assert not faults, "\n".join(faults)


def _tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / entry for entry in done.stdout.split("\0") if entry and (ROOT / entry).is_file()]


def test_no_file_names_the_machine_it_was_written_on() -> None:
    """Home folders, scratch folders and hosts of one machine mean nothing on another."""
    machine = re.compile(
        r"(?<![\w.])/(?:home|root|Users|work|mnt|tmp/\w)/[\w.-]+|\b[\w-]+\.(?:internal|corp|intra|lan)\b"
    )
    faults = []
    for path in _tracked():
        if path == Path(__file__) or path.suffix in (".png", ".jpg", ".safetensors", ".npz"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            found = machine.search(line)
            if found:
                faults.append(f"{path.relative_to(ROOT)}:{number}: {found[0]}")
    assert not faults, "\n".join(faults)


def test_no_unfinished_work() -> None:
    marks = re.compile(r"#.*\b(?:TODO|FIXME|XXX|HACK)\b|raise NotImplementedError")
    faults = [
        f"{name(path)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if marks.search(line)
    ]
    assert not faults, "\n".join(faults)
