"""Find and run config files: by path, or by the name of one that comes with pvt_jax."""

import contextlib
import difflib
import importlib.util
import os
import re
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvt_jax import paths
from pvt_jax.errors import UserError
from pvt_jax.messages import did_you_mean, listed

_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class ConfigFile:
    """A config file.

    Attributes:
      path: an existing file.
      argument: what its ``get_config`` is called with; empty for nothing.
      name: of one that comes with pvt_jax and was asked for by its name.
    """

    path: Path
    argument: str
    name: str = ""

    def run(self) -> tuple[Any, Callable[..., None] | None]:
        """(what ``get_config`` gives, ``complete`` if the file has it). Raises UserError: the file is wrong."""
        spec = importlib.util.spec_from_file_location(f"pvt_jax_config_{self.path.stem}", self.path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)

        def chosen() -> Any:
            spec.loader.exec_module(module)  # pyright: ignore[reportOptionalMemberAccess]
            return module.get_config(self.argument) if self.argument else module.get_config()

        return self.call(chosen), getattr(module, "complete", None)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call what the file defines; what goes wrong in it is a UserError."""
        try:
            with _shared_recipes(self.path.resolve().parent):
                return function(*arguments)
        except UserError as error:
            if not self.name:
                raise
            # Configs call themselves by their path in a checkout.
            raise UserError(str(error).replace(f"configs/{self.name}.py", self.name)) from error
        except Exception as error:
            raise UserError(f"config file {self.path} failed: {type(error).__name__}: {error}") from error


def find(spec: str) -> ConfigFile:
    """The file of ``PATH``, ``PATH:ARGUMENT``, ``NAME`` or ``NAME:ARGUMENT``. Raises UserError: there is none."""
    path, _, argument = spec.partition(":")
    if argument.startswith("//"):  # What looks like an argument is the rest of a URL.
        path, argument = spec, ""
    file = Path(paths.local(path, "the config file"))
    if file.is_file():
        return ConfigFile(file, argument)
    is_name = path != "" and not path.endswith(".py") and not {os.sep, os.altsep} & set(path)
    known = names()
    if is_name and path in known:
        return ConfigFile(folder() / f"{path}.py", argument, path)
    if is_name:
        hint = did_you_mean(path, known) or f": those that come with pvt_jax are {listed(known, len(known))}"
        raise UserError(f"no config {path!r}{hint}; a config file of your own is given by its path, as ./{path}.py")
    if file.stem in known:
        raise UserError(f"no config file {file}: --config {file.stem} takes the one that comes with pvt_jax")
    siblings = sorted(str(p) for p in file.parent.glob("*.py")) if file.parent.is_dir() else []
    nearest = difflib.get_close_matches(str(file), siblings, 1, 0.0)
    raise UserError(f"no config file {file}{f': did you mean {nearest[0]}?' if nearest else ''}")


def names() -> list[str]:
    """The configs that come with pvt_jax, sorted."""
    files = sorted(folder().glob("*.py"))
    return [file.stem for file in files if re.search(r"^def get_config\(", file.read_text("utf-8"), re.MULTILINE)]


def folder() -> Path:
    """Where the configs that come with pvt_jax are: ``configs/`` of a checkout, which a wheel has in the package."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


@contextlib.contextmanager
def _shared_recipes(beside: Path) -> Iterator[None]:
    """``from configs.common import …`` finds a file in ``beside``, if that is called ``configs``, or pvt_jax's own.

    It does so from any folder, and whatever else is called ``configs`` there or in the environment.
    """
    places = [beside, folder()] if beside.name == "configs" else [folder()]
    package = types.ModuleType("configs")
    package.__path__ = [str(place) for place in places]
    # A config may also import what stands beside its folder; but modules of pvt_jax would hide Python's own, as trace.
    searched = [str(beside.parent)] if beside.parent != _PACKAGE else []
    others = _remove_configs()
    sys.modules["configs"] = package
    sys.path[:0] = searched
    try:
        yield
    finally:
        for place in searched:
            sys.path.remove(place)
        _remove_configs()
        sys.modules.update(others)


def _remove_configs() -> dict[str, types.ModuleType]:
    """The imported modules of that name, which are then no longer imported."""
    found = [name for name in sys.modules if name.partition(".")[0] == "configs"]
    return {name: sys.modules.pop(name) for name in found}
