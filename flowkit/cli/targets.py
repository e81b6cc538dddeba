"""TARGET: the workflow that a command is about, found in a module, a file, or among the shipped ones."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from flowkit.cli.config import read_config
from flowkit.cli.exits import USAGE, Problem
from flowkit.dsl import Workflow
from flowkit.errors import DeclarationError
from flowkit.workflows import shipped

AnyWorkflow = Workflow[Any, Any]

_HERE = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True, slots=True)
class Target:
    """A workflow, the module it was found in, and the text that names it."""

    workflow: AnyWorkflow
    module: ModuleType
    text: str

    @property
    def example(self) -> Any:
        """The module's EXAMPLE, an input to try it with; `Problem` if it has none."""
        try:
            return self.module.EXAMPLE
        except AttributeError:
            raise Problem(
                f"{self.text} has no example: its module defines no EXAMPLE. Use --input."
            ) from None

    @property
    def rules(self) -> dict[str, Any]:
        """How the offline stand-in answers for this workflow; empty if it was given no rules."""
        return dict(getattr(self.module, "OFFLINE_RULES", {}))

    @property
    def resources(self) -> list[object]:
        """The module's RESOURCES: what its nodes get by `ctx.resource(Type)`."""
        return list(getattr(self.module, "RESOURCES", ()))


def load_target(text: str) -> Target:
    """Import what TARGET names. Everything that can be wrong with it is one line, exit code 2."""
    text = text.strip()
    place, colon, name = shipped().get(text, text).rpartition(":")
    if not colon:
        place, name = name, ""
    if place.endswith(".py"):
        module = _import_file(Path(place), text)
    elif place.isidentifier() and not colon and not _findable(place):
        known = ", ".join(sorted(shipped()))
        raise Problem(
            f"no shipped workflow is named {text!r} (there are: {known}). For one of your own give "
            f"module:object or file.py:object."
        )
    else:
        module = _import_module(place, text)
    return Target(_pick(module, name, text), module, text)


def target_of_run(workflow: str, given: str | None) -> Target:
    """The target of a stored run: the given one, the configured one, or the shipped one."""
    text = given or known_target(workflow)
    if not text:
        raise Problem(
            f"the journal keeps the workflow's name {workflow!r}, not where its code is: name it, as in "
            f"`flowkit resume RUN file.py:{workflow}`, or once for all in flowkit.toml under [targets]."
        )
    target = load_target(text)
    if target.workflow.name != workflow:
        raise Problem(
            f"the run belongs to workflow {workflow!r}, but {text} is {target.workflow.name!r}."
        )
    return target


def known_target(workflow: str) -> str:
    """Where a workflow's code is, if its name alone tells; else empty."""
    return read_config().targets.get(workflow) or (workflow if workflow in shipped() else "")


def _pick(module: ModuleType, name: str, text: str) -> AnyWorkflow:
    names: dict[str, object] = vars(module)
    found = {key: each for key, each in names.items() if _is_workflow(each)}
    there = ", ".join(sorted(found)) or "none"
    if not name:
        own = {id(each): each for each in found.values()}
        if len(own) != 1:
            raise Problem(f"{text}: which workflow? Give {text}:NAME; there are: {there}.")
        return next(iter(own.values()))
    thing: object = module
    for part in name.split("."):
        try:
            thing = getattr(thing, part)
        except AttributeError:
            raise Problem(f"{text}: there is no {name!r}. Workflows there: {there}.") from None
    if not _is_workflow(thing):
        raise Problem(
            f"{text} is of type {type(thing).__name__}, not a workflow: decorate it with @workflow. "
            f"Workflows there: {there}."
        )
    return thing


def _is_workflow(thing: object) -> TypeGuard[AnyWorkflow]:
    return isinstance(thing, Workflow)


def _findable(name: str) -> bool:
    _add_path(Path.cwd())
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _add_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import_module(name: str, text: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise Problem(f"{text!r} is no target: give module:object or file.py:object.")
    _add_path(Path.cwd())
    with _one_line(text, name):
        return importlib.import_module(name)


def _import_file(path: Path, text: str) -> ModuleType:
    with contextlib.suppress(OSError, ValueError):
        path = path.resolve()
    try:
        there = path.is_file()
    except (OSError, ValueError):  # too long a name, a NUL in it
        there = False
    if not there:
        raise Problem(f"{text}: there is no file {path}.")
    _add_path(Path.cwd())
    _add_path(path.parent)
    name = path.stem
    if name in sys.modules or not name.isidentifier() or _findable_elsewhere(name, path):
        name = f"flowkit_target_{abs(hash(str(path)))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Problem(f"{text}: Python cannot load {path}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic and typing look names up there
    with _one_line(text, name):
        spec.loader.exec_module(module)
    return module


def _findable_elsewhere(name: str, path: Path) -> bool:
    """Whether the stem is the name of another module, such as json.py's."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None and Path(spec.origin) != path


@contextlib.contextmanager
def _one_line(text: str, name: str) -> Generator[None]:
    """Turn whatever the user's module raises into one line with its place; prints go to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except BaseException as error:
        if not isinstance(error, Exception | SystemExit):
            raise
        raise Problem(_explain(error, text, name), USAGE) from error


def _explain(error: BaseException, text: str, name: str) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{name}.".startswith(f"{missing}."):
        return f"{text}: there is no module {missing!r}. Is the current directory right?"
    if isinstance(error, SyntaxError):
        return f"{text}: {error.msg} ({error.filename}:{error.lineno})"
    where = _where(error)
    if isinstance(error, DeclarationError):
        return f"{text}: {error}{where}"
    if isinstance(error, SystemExit):
        return f"{text}: the module ended the process (exit code {error.code}){where}"
    return f"{text}: {type(error).__name__}: {error}{where}"


def _where(error: BaseException) -> str:
    """File and line of the deepest frame that is the user's."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<", _HERE))
        and not frame.filename.startswith(str(Path(importlib.__file__).parent))
        and "site-packages" not in frame.filename
    ]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
