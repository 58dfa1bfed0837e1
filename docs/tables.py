"""Directives that write what the code knows: ``config-keys``, ``configs``, ``known-weights`` and ``modules``."""

import ast
import pkgutil
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from pvt_jax.config import documented
from pvt_jax.weights.known import KNOWN

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def config_keys() -> str:
    """All keys with default, value and meaning; a table for each section."""
    lines: list[str] = []
    rows: dict[str, list[tuple[str, ...]]] = {"": []}
    titles = {"": "## The run"}
    for row in documented():
        if not row.kind:
            rows[row.key], titles[row.key] = [], f"## {row.key}\n\n{row.text}"
            continue
        section = row.key.rpartition(".")[0]
        meaning = row.text + " May change when a run resumes." * row.free
        rows[section].append((f"`{row.key}`", _shown(row.default), row.kind, meaning.replace("*", "\\*")))
    for section, keys in rows.items():
        lines += [titles[section], table(("key", "default", "takes", "meaning"), keys)]
    return "\n\n".join(lines)


def _shown(default: Any) -> str:
    """A default as it is written on the command line."""
    if isinstance(default, tuple):
        return "(" + ", ".join(map(_shown, default)) + "," * (len(default) == 1) + ")"
    if isinstance(default, float):
        return f"{default:g}" if default != int(default) or default > 1e6 else f"{default:.1f}"
    return "empty" if default == "" else str(default)


def configs() -> str:
    """The config files, with the first line of their docstrings."""
    files = {path.name: ast.get_docstring(ast.parse(path.read_text())) or "" for path in sorted(CONFIGS.glob("*.py"))}
    rows = [
        (f"[{name}](../configs/{name})", text.splitlines()[0].replace("*", "\\*"))
        for name, text in files.items()
        if "--config " in text
    ]
    return table(("config", "experiment"), rows)


def known_weights() -> str:
    """Weights with a name: model, head, licence and file."""
    rows = [
        (f"`{name}`", f"`{known.model}`", f"`{known.head}`" * bool(known.head), known.licence, f"[file]({known.url})")
        for name, known in KNOWN.items()
    ]
    return table(("name", "model", "head", "licence", "file"), rows)


def modules(package: str) -> Iterator[str]:
    """The modules at and below a package, by their dotted names."""
    module = import_module(package)
    yield package
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"{package}."):
        yield found.name


class Written(SphinxDirective):
    """Markdown that a function writes."""

    writers: ClassVar = {"config-keys": config_keys, "configs": configs, "known-weights": known_weights}

    def run(self) -> list[nodes.Node]:  # noqa: D102
        return self.parse_text_to_nodes(self.writers[self.name](), allow_section_headings=True)


class Modules(SphinxDirective):
    """The public functions and classes of packages, one section a module, from their docstrings."""

    has_content = True

    def run(self) -> list[nodes.Node]:  # noqa: D102
        names = [name for package in self.content for name in modules(package)]
        sections = (f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n" for name in names)
        return self.parse_text_to_nodes("\n".join(sections), allow_section_headings=True)


def escape(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with ``literals``; no other sign in them is markup."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``[^`]+``)", line)
        parts[::2] = [re.sub(r"([*|])", r"\\\1", text) for text in parts[::2]]
        # A literal that touches a letter or an exponent needs a separator, which is not shown.
        parts[2::2] = ["\\ " * text[:1].isalnum() + text for text in parts[2::2]]
        lines[number] = "".join(parts)


def shorten(app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str, result: str) -> Any:
    """Signatures without what every Flax module has, and with the names that the code uses."""
    if signature:
        signature = re.sub(r"(, )?parent: .*?, name: str \| None = None", "", signature)
    return tuple(text and _plain(text) for text in (signature, result))


def _plain(text: str) -> str:
    for long, short in {
        "~jax.Array": "Array",
        "~jaxlib._jax.Array": "Array",
        "jaxlib._jax.Array": "Array",
        "str | type[~typing.Any] | ~numpy.dtype | ~jax._src.typing.SupportsDType": "DTypeLike",
        "<class 'jax.numpy.float32'>": "float32",
    }.items():
        text = text.replace(long, short)
    return text


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    for name in Written.writers:
        app.add_directive(name, Written)
    app.add_directive("modules", Modules)
    # Before napoleon, which writes markup.
    app.connect("autodoc-process-docstring", escape, priority=400)
    app.connect("autodoc-process-signature", shorten)
    return {"parallel_read_safe": True}
