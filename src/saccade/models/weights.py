"""Start from weights that exist: a Saccade run, a public checkpoint that the user has, or one that is published."""

from __future__ import annotations

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

ROOM, MARGIN = 16, 2**24  # bytes to which an archive may unpack: for each number of the network, and for all else


def weights_path(model: str, source: str | Path, shown: bool = True) -> Path:
    """The file or run folder that `--weights SOURCE` means.

    Args:
        model: name in the catalogue.
        source: a path, or a word of `published.WORDS` for a file that is downloaded unless it is in the cache.
        shown: tell of a download on stderr, on a terminal by a bar.

    Raises:
        UsageError: no such weights are published for this model.
        ModelFileError: neither a path nor a word; the file has another checksum.
        ResourceError: the file cannot be had, or not kept.
    """
    if str(source) in WORDS:
        return _download(find_published(model, str(source)), shown)
    if not (Path(source).is_file() or Path(source).is_dir()):
        what = "neither a file nor a run folder" if Path(source).exists() else "no such file or run"
        raise ModelFileError(f"{source}: {what}; published weights are named by {', '.join(WORDS)}")
    return Path(source)


def recognise(model: str, source: str | Path) -> tuple[str, Published | None]:
    """The word and the entry of published weights, also where SOURCE is the file itself; "" and None of all others.

    Raises:
        UsageError: SOURCE is a word, and no such weights are published for this model.
    """
    if str(source) in WORDS:
        return str(source), find_published(model, str(source))
    entries, path = PUBLISHED.get(model, {}), Path(source)
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


def is_counter(name: str) -> bool:
    """Whether a tensor counts batches: files from before 2018 have none, and nothing depends on it."""
    return name.endswith(".num_batches_tracked")


def start_from(model: nn.Module, module: Room, source: str | Path) -> list[str]:
    """Load what fits of a checkpoint; layers whose shape depends on the classes keep their random start.

    Args:
        module: the model's room, see `read_for`.
        source: a checkpoint file or a run folder.

    Returns:
        The names of the tensors that were left as they are, without batch counters.

    Raises:
        ModelFileError: the file cannot be read.
        UsageError: less than half of the model's tensors are in it.
    """
    path = Path(source)
    if path.is_dir():
        path = checkpoint.find(path)
    weights = read_for(model, module, path)
    expected = model.state_dict()
    fitting = {k: v for k, v in weights.items() if k in expected and v.shape == expected[k].shape}
    if 2 * len(fitting) < len(expected):
        raise UsageError(
            f"{path}: weights of another network: {len(fitting)} of {len(expected)} tensors fit. "
            f"It holds {_some(weights)}; the model has {_some(expected)}"
        )
    model.load_state_dict(expected | fitting)
    return sorted(name for name in set(expected) - set(fitting) if not is_counter(name))


def _some(tensors: dict[str, Tensor]) -> str:
    first = [f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:3]]
    return ", ".join(first) + (", ..." if len(tensors) > 3 else "")
