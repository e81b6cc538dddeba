"""Model files: which are known, with size and SHA-256 (`data/gguf.json`), and where they lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from flowkit.errors import NoModel

PREFIX: Final = "local"
"""`local`, `local:NAME` or `local:FILE` is the name of a model that runs in this process."""


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A known model file. `url` is "" for one that is only taken from a file that somebody has.

    `memory_mb`: about what it takes with a context of 8,192 tokens.
    """

    name: str
    file: str
    size: int
    sha256: str
    url: str
    licence: str
    memory_mb: int
    about: str


@cache
def known() -> Mapping[str, GgufFile]:
    """The known files by name."""
    text = files("flowkit.model").joinpath("data", "gguf.json").read_text("utf-8")
    table: dict[str, dict[str, Any]] = json.loads(text)
    return {name: GgufFile(name, **row) for name, row in table.items()}


def folder(environ: Mapping[str, str]) -> Path:
    """Where model files are kept: FLOWKIT_MODELS, else `models` in the user's data directory."""
    if given := environ.get("FLOWKIT_MODELS", "").strip():
        return Path(given)
    try:
        import platformdirs
    except ImportError as error:
        raise NoModel(
            "There is no platformdirs to say where model files are kept: set FLOWKIT_MODELS to a "
            'folder, or pip install "flowkit-agents[local]".'
        ) from error
    return platformdirs.user_data_path("flowkit", appauthor=False) / "models"


def is_local(name: str) -> bool:
    """Whether a model's name asks for one in this process."""
    return name == PREFIX or name.startswith(f"{PREFIX}:")


def found(name: str, environ: Mapping[str, str]) -> Path:
    """The file that `local`, `local:NAME`, a known name or a path names. Raises `NoModel`."""
    wanted = name.removeprefix(f"{PREFIX}:") if is_local(name) else name
    if wanted and wanted != PREFIX:
        row = known().get(wanted)
        path = folder(environ) / row.file if row else Path(wanted).expanduser()
        if row and not path.is_file():
            raise NoModel(
                f"The model file {wanted!r} is not here ({path}). Fetch it: flowkit model fetch {wanted}"
            )
        return checked(path)
    here = there(environ)
    if not here:
        raise NoModel(
            f"There is no model file in {folder(environ)}. Fetch one, such as flowkit model fetch "
            "qwen2.5-coder-1.5b (1.1 GB; flowkit model list has others), or name one: local:FILE.gguf"
        )
    if len(here) > 1:
        names = ", ".join(sorted(f"local:{each}" for each in here))
        raise NoModel(f"There are several model files; say which: {names}.")
    return checked(next(iter(here.values())))


def there(environ: Mapping[str, str]) -> Mapping[str, Path]:
    """The files in the folder: by name where known, else by path."""
    names = {row.file: row.name for row in known().values()}
    here = sorted(folder(environ).glob("*.gguf")) if folder(environ).is_dir() else []
    return {names.get(path.name, str(path)): path for path in here}


def checked(path: Path) -> Path:
    """The path, if a GGUF file is there. Raises `NoModel`."""
    try:
        with path.open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
    except OSError as error:
        names = ", ".join(known())
        raise NoModel(
            f"The model file {str(path)!r} cannot be read ({error.strerror}). Give the path of a GGUF "
            f"file, or a name that flowkit model fetch knows: {names}."
        ) from error
    if not is_gguf:
        raise NoModel(f"{path} is no GGUF file: llama.cpp reads no other format.")
    return path
