"""Which file may import which: the architecture, as tables that fail when they are not true.

``ops ← nn ← backbones, heads ← models ← tasks ← config ← training ← commands``. A file's room is its top-level folder
or module; ``options.py`` files, which say what a section of a config may hold, are a room of their own at the bottom.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# room → rooms it may import, itself aside. Everything may import errors; nothing may import a command.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "paths": {"messages"},
    "commands": {"paths"},
    "compilation": set(),
    "environment": {"devices", "machine", "version"},
    "machine": set(),
    "huge_pages": {"machine"},
    "version": set(),
    "messages": set(),
    "fields": {"paths"},
    "weight_names": set(),
    "options": {"fields"},
    "ops": {"devices"},
    "nn": {"ops"},
    "backbones": {"nn", "ops", "weight_names"},
    "heads": {"backbones", "nn", "ops", "weight_names"},
    "models": {"backbones", "fields", "heads", "nn"},
    "weights": {"backbones", "heads", "ops", "paths", "weight_names"},
    "trace": {"ops"},
    "devices": set(),
    "visualization": {"nn", "ops"},
    "files": {"messages", "options", "paths"},
    "data": {"files", "messages", "options", "paths"},
    "tasks": {"data", "fields", "files", "heads", "messages", "models", "nn", "ops", "options", "visualization"},
    "config_files": {"messages", "paths"},
    "config": {"config_files", "fields", "options", "tasks"},
    "training": {
        "backbones",
        "compilation",
        "config",
        "data",
        "environment",
        "fields",
        "files",
        "machine",
        "messages",
        "ops",
        "options",
        "paths",
        "tasks",
        "visualization",
        "weights",
    },
    "sweeps": {"config", "machine", "messages", "paths", "training", "visualization"},
    # Steps without data, for what measures or plans them.
    "programs": {"compilation", "config", "heads", "models", "ops", "options", "tasks", "training"},
    "planning": {
        "config",
        "devices",
        "machine",
        "messages",
        "ops",
        "options",
        "programs",
        "tasks",
        "trace",
        "training",
    },
    "hub": {"config", "data", "messages", "paths", "tasks", "training", "weights"},
    "prediction": {
        *(
            "compilation",
            "config",
            "data",
            "files",
            "heads",
            "messages",
            "nn",
            "ops",
            "options",
            "paths",
            "tasks",
            "training",
            "visualization",
            "weights",
        ),
    },
}
# What commands, the public API and experiments may import: all of it.
PUBLIC = {
    "__init__",
    "__main__",
    "benchmark",
    "browse",
    "compare",
    "convert",
    "export",
    "main",
    "predict",
    "prepare",
    "summary",
    "sweep",
}

# A folder in here is one thing, and one thing does not know another of its kind.
THINGS = ("backbones", "heads", "tasks")

# Packages that only some rooms may import, whatever else they import. jax's own family counts as one.
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
ON_DEVICE = {
    "ops",
    "nn",
    "backbones",
    "heads",
    "models",
    "trace",
    "weights",
    "compilation",
    "environment",
    "tasks",
    "training",
} | {"hub", "planning", "prediction", "programs"}
RESTRICTED: dict[str, set[str]] = {
    # Data runs on hosts without a device, in worker processes; configs and errors load before jax does.
    **dict.fromkeys(JAX, ON_DEVICE),
    # Models take keyword arguments and never see a config.
    "ml_collections": {"config"},
    "orbax": {"training", "weights"},
    "optax": {"training", "ops"},
    "grain": {"data"},
    "tensorflow_datasets": {"data"},
    "tensorboardX": {"training"},
    "cv2": {"data", "files", "tasks"},
    "faster_coco_eval": {"data", "tasks"},
    "argparse": {"commands"},
}

MODULES = sorted((ROOT / "pvt_jax").rglob("*.py"))
NAMES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}


def room_of(path: Path) -> str:
    return "options" if path.stem == "options" else path.relative_to(ROOT / "pvt_jax").parts[0].removesuffix(".py")


def thing_of(path: Path) -> tuple[str, str] | None:
    """(kind, thing) of a file in the folder of one thing."""
    kind, *rest = path.relative_to(ROOT / "pvt_jax").parts
    return (kind, rest[0]) if kind in THINGS and len(rest) > 1 else None


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def imported_files(path: Path) -> frozenset[Path]:
    """The files of the package that a file imports."""
    found = set()
    for name in imports(ast.parse(path.read_text())):
        while name not in NAMES and "." in name:
            name = name.rpartition(".")[0]
        if name in NAMES:
            found.add(NAMES[name])
    return frozenset(found)


def test_every_room_is_in_the_table():
    assert {room_of(path) for path in MODULES} <= ALLOWED.keys() | PUBLIC


def test_the_table_has_no_circle():
    ranked: set[str] = set()
    while ranked != ALLOWED.keys():
        free = {room for room in ALLOWED.keys() - ranked if ALLOWED[room] <= ranked}
        assert free, f"{ALLOWED.keys() - ranked} import each other"
        ranked |= free


def test_files_import_each_other_in_no_circle():
    left = {path: set(imported_files(path)) - {path} for path in MODULES}
    while left:
        free = {path for path, needs in left.items() if not needs & left.keys()}
        assert free, f"these import each other: {sorted(str(path.relative_to(ROOT)) for path in left)}"
        left = {path: needs for path, needs in left.items() if path not in free}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "pvt_jax")))
def test_imports_point_one_way(path):
    room = room_of(path)
    for name in imports(ast.parse(path.read_text())):
        package, *rest = name.split(".")
        if package != "pvt_jax":
            assert package not in ("configs", "experiments", "tests"), f"{room} imports {name}"
            if package in RESTRICTED and room not in PUBLIC:
                assert room in RESTRICTED[package], f"{room} imports {name}"
        else:
            assert rest, "inside the package its parts are imported by name"
    for other in imported_files(path):
        if room in PUBLIC:
            assert room_of(other) not in PUBLIC, f"{path.name} imports the command {other.name}"
        else:
            assert room_of(other) in ALLOWED[room] | {room, "errors"}, f"{room} imports {other.relative_to(ROOT)}"
        if (here := thing_of(path)) and (there := thing_of(other)) and here[0] == there[0]:
            assert here == there, f"{'/'.join(here)} imports {'/'.join(there)}"


def test_what_takes_a_second_to_import_is_imported_where_it_is_used():
    slow = {"matplotlib", "scipy", "sklearn", "tensorflow", "tensorflow_datasets"}
    for path in MODULES:
        tree = ast.parse(path.read_text())
        first = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        # Only the command that plans sweeps needs statistics.
        found = {name.split(".")[0] for name in imports(first)} & slow - {"scipy" * (room_of(path) == "sweeps")}
        assert not found, f"{path.name} imports {', '.join(found)} before it is needed"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_configs_import_little(path):
    for name in imports(ast.parse(path.read_text())):
        allowed = ("ml_collections", "configs.common", "pvt_jax.data", "pvt_jax.errors", "os", "collections.abc")
        assert name.startswith(allowed), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_import_helpers_alone(path):
    for name in imports(ast.parse(path.read_text())):
        if name.startswith("tests."):
            assert name.startswith("tests.helpers"), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "pvt_jax")))
def test_no_module_keeps_state(path):
    """No ``global``, and module-level tables and lists are only read."""
    tree = ast.parse(path.read_text())
    targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    changing = {"append", "add", "update", "pop", "clear", "extend", "setdefault", "remove", "insert", "popitem"}
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Global), f"{path.name}:{node.lineno} has a global statement"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            assert node.attr not in changing, f"{path.name}:{node.lineno} changes {node.value.id}"
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in names:
            assert isinstance(node.ctx, ast.Load), f"{path.name}:{node.lineno} changes {node.value.id}"


@pytest.mark.parametrize("room", ["backbones", "heads", "nn", "ops"])
def test_only_commands_read_flags_or_the_environment(room):
    for path in (ROOT / "pvt_jax" / room).rglob("*.py"):
        for name in imports(ast.parse(path.read_text())):
            assert name.split(".")[0] not in ("os", "sys", "absl", "argparse"), f"{path.name} imports {name}"
