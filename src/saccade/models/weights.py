"""Start from weights that exist: a Saccade run, a public checkpoint that the user has, or one that is published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from saccade import checkpoint
from saccade.errors import ModelFileError, SaccadeError, UsageError
from saccade.machine.download import LARGEST, digest, fetch
from saccade.machine.paths import cache_folder
from saccade.models.contract import Room, from_public, reader_of
from saccade.models.published import PUBLISHED, WORDS, Published, find_published
from saccade.models.standing import Standing, is_counter, parts_of, standing_of

ROOM, MARGIN = 16, 2**24  # bytes to which an archive may unpack: for each number of the network, and for all else


def weights_path(model: str, source: str | Path, shown: bool = True, trunk: str | None = None) -> Path:
    """The file or run folder that `--weights SOURCE` means.

    Args:
        model: name in the catalogue.
        source: a path, or a word of `published.WORDS` for a file that is downloaded unless it is in the cache.
        shown: tell of a download on stderr, on a terminal by a bar.
        trunk: the classification network that the model stands on, whose weights a word means where there are none of
            the model itself.

    Raises:
        UsageError: no such weights are published for this model or its trunk.
        ModelFileError: neither a path nor a word; the file has another checksum.
        ResourceError: the file cannot be had, or not kept.
    """
    if str(source) in WORDS:
        return _download(find_published(model, str(source), trunk), shown)
    if not (Path(source).is_file() or Path(source).is_dir()):
        what = "neither a file nor a run folder" if Path(source).exists() else "no such file or run"
        raise ModelFileError(f"{source}: {what}; published weights are named by {', '.join(WORDS)}")
    return Path(source)


def recognise(model: str, source: str | Path, trunk: str | None = None) -> tuple[str, Published | None]:
    """The word and the entry of a model's published weights, also where SOURCE is the file itself; "" and None of all
    others, the weights of its `trunk` among them.

    Raises:
        UsageError: SOURCE is a word, and no such weights are published for this model or its trunk.
    """
    entries, path = PUBLISHED.get(model, {}), Path(source)
    if str(source) in WORDS:
        published = find_published(model, str(source), trunk)
        return (str(source), published) if str(source) in entries else ("", None)
    found = digest(path) if entries and path.is_file() else ""
    return next(((word, entry) for word, entry in entries.items() if found.startswith(entry.sha256)), ("", None))


def _download(published: Published, shown: bool) -> Path:
    folder = cache_folder("weights")
    console = Console(stderr=True, quiet=not shown, soft_wrap=True)
    if not (folder / published.file).is_file():
        size = "" if published.mebibytes is None else f"{published.mebibytes:.1f} MiB, "
        console.print(
            f"downloading {published.url} to {folder} ({size}{published.owner}, licence {published.licence})",
            highlight=False,
            markup=False,
        )
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )
    with bar:
        task = bar.add_task(published.file, total=None)
        return fetch(
            published.url,
            published.sha256,
            folder,
            lambda there, total: bar.update(task, completed=there, total=total),
            largest=LARGEST if published.mebibytes is None else int((published.mebibytes + 1) * 2**20),
        )


def read_for(model: nn.Module, module: Room, path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file under the names of the model.

    Args:
        module: the model's room; its `from_public(state_dict)`, where it has one, repairs public key layouts, and its
            `FILES`, where it has them, are readers `(path, model) -> state dict` of the paper's own formats by suffix.

    Raises:
        ModelFileError: the file cannot be read.
    """
    read = reader_of(module, path.suffix)
    need = sum(tensor.numel() for tensor in model.state_dict().values())
    most = ROOM * need + MARGIN
    if not path.is_file():
        raise ModelFileError(f"{path}: not a regular file, or not there")
    try:
        if read is None:
            weights = from_public(module, checkpoint.read_public(path, most))
        else:
            weights = from_public(module, read(path, model))
            checkpoint.refuse_odd(weights, path)
    except SaccadeError:
        raise
    except Exception as error:  # of a layout that only looks like the public one
        raise ModelFileError(f"{path}: not weights in a layout of this network ({error!r:.200})") from error
    return weights


@dataclass(frozen=True, slots=True)
class Start:
    """What became of weights that a model starts from."""

    fresh: list[str]  # tensors that were left as they are, without batch counters, by name
    network: str = ""  # classification network whose weights went into the parts of a model that stands on it
    placed: tuple[str, ...] = ()  # these parts, as the model calls them; then
    count: int = 0  # how many of its tensors went there, without batch counters
    held: int = 0  # how many the file holds


def start_from(model: nn.Module, module: Room, source: str | Path) -> Start:
    """Load what fits of a checkpoint; layers whose shape depends on the classes keep their random start.

    The weights may be of the model, or of the classification network that it stands on; these go into its trunk, with
    the trunk's tail, and into what else the model has of a classifier.

    Args:
        module: the model's room, see `read_for`.
        source: a checkpoint file or a run folder.

    Raises:
        ModelFileError: the file cannot be read.
        UsageError: less than half of the model's tensors are in it, nor half of its trunk's.
    """
    path = Path(source)
    if path.is_dir():
        path = checkpoint.find(path)
    base, expected = standing_of(model), model.state_dict()
    weights = read_for(model, module, path) if base is None else _own(model, module, base, path)
    fitting = _fitting(weights, expected)
    if 2 * len(fitting) >= len(expected):
        model.load_state_dict(expected | fitting)
        return Start(sorted(name for name in set(expected) - set(fitting) if not is_counter(name)))
    if base is not None:
        return _start_trunk(model, module, base, path)
    raise UsageError(
        f"{path}: weights of another network: {len(fitting)} of {len(expected)} tensors fit. "
        f"It holds {_some(weights)}; the model has {_some(expected)}"
    )


def _own(model: nn.Module, module: Room, base: Standing, path: Path) -> dict[str, Tensor]:
    """As `read_for`; nothing where the file is one that only the room of the trunk may be able to read."""
    if reader_of(module, path.suffix) is None and reader_of(base.room, path.suffix) is not None:
        return {}
    try:
        return read_for(model, module, path)
    except ModelFileError:
        return {}  # the room of the trunk says what is wrong


def _start_trunk(model: nn.Module, module: Room, base: Standing, path: Path) -> Start:
    """Load the weights of a classification network into what stands on it; see `start_from`."""
    expected = model.state_dict()
    held = read_for(base.classifier(), base.room, path)
    placed = base.tensors(module, held)
    fitting = _fitting(placed, expected)
    own = [name for name in expected if name.startswith(f"{base.place}.")]
    fit = [name for name in own if name in fitting]
    if not fit or 2 * len(fit) < len(own):
        advice = _advice(base, path, alike=2 * len(placed.keys() & set(own)) >= len(own))
        raise UsageError(
            f"{path}: weights of another network: {len(fit)} of the {len(own)} tensors of the trunk {base.network} are "
            f"in it, and fewer than half of the model's. {advice}It holds {_some(held)}; the trunk has "
            f"{_some({name: expected[name] for name in own})}"
        )
    model.load_state_dict(expected | fitting)
    fresh = sorted(name for name in set(expected) - set(fitting) if not is_counter(name))
    others = [name for name in fitting if name not in own]
    count, total = (sum(not is_counter(name) for name in names) for names in (fitting, held))
    return Start(fresh, base.network, (base.place, *parts_of(others, expected)), count, total)


def _advice(base: Standing, path: Path, alike: bool) -> str:
    """What would make the trunk the network that the file is of, where that can be told.

    Args:
        alike: whether the file names its tensors as the trunk does.
    """
    try:
        made = checkpoint.load(path)
    except SaccadeError:
        fields = base.other_fields() if alike else []
        return f"For weights of the usual {base.network}: {' '.join(fields)}. " if fields else ""
    if made.model != base.network:
        return f"They are of {made.model}: --set trunk={made.model}. "
    fields = base.other_fields(made.config)
    return f"They were made with others of its fields: {' '.join(fields)}. " if fields else ""


def _fitting(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file that a network has; none of a layer in which one has another shape, such as its weight."""
    known = {name: value for name, value in weights.items() if name in expected}
    others = {name.rpartition(".")[0] for name, value in known.items() if value.shape != expected[name].shape}
    return {name: value for name, value in known.items() if name.rpartition(".")[0] not in others}


def _some(tensors: dict[str, Tensor]) -> str:
    first = [f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:3]]
    return ", ".join(first) + (", ..." if len(tensors) > 3 else "")
