"""Which room may import which: the architecture, as a table that fails when it is not true."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# room → rooms it may import, itself aside. Everything may import errors; nothing may import a command.
#   ops, losses ← models ← tasks ← training ← commands; evaluation and data serve tasks; checkpoints serve training.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "commands": set(),
    "config": {"config_check", "config_keys"},
    "config_check": {"config_keys"},
    "config_keys": set(),
    "compilation": set(),
    "ops": set(),
    "losses": {"ops"},
    "models": {"ops", "losses"},
    "data": set(),
    "evaluation": {"ops", "losses"},
    "checkpoints": {"ops"},
    "visualization": {"models", "ops"},
    "tasks": {"compilation", "config", "data", "evaluation", "losses", "models", "ops", "visualization"},
    "training": {"checkpoints", "compilation", "config", "tasks"},
}
# What commands, the public API and experiments may import: all of it.
PUBLIC = {"__init__", "main", "predict", "convert", "summary", "benchmark", "export"}

# Packages that only some rooms may import, whatever else they import. jax's own family counts as one.
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
ON_DEVICE = {"ops", "losses", "models", "evaluation", "checkpoints", "compilation", "tasks", "training"}
RESTRICTED: dict[str, set[str]] = {
    # Data runs on hosts without a device, in worker processes; configs and errors load before jax does.
    **dict.fromkeys(JAX, ON_DEVICE),
    # Models take keyword arguments and never see a config.
    "ml_collections": {"config", "config_keys"},
    "orbax": {"checkpoints"},
    "optax": {"training", "ops"},
    "grain": {"data"},
    "tensorflow_datasets": {"data"},
    "tensorboardX": {"training"},
    "cv2": {"data"},
    "faster_coco_eval": {"data", "evaluation"},
    "argparse": {"commands", "data"},
}

MODULES = sorted((ROOT / "pvt_jax").rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "pvt_jax").parts[0].removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_room_is_in_the_table():
    assert {room_of(path) for path in MODULES} <= ALLOWED.keys() | PUBLIC


def test_the_table_has_no_circle():
    ranked: set[str] = set()
    while ranked != ALLOWED.keys():
        free = {room for room in ALLOWED.keys() - ranked if ALLOWED[room] <= ranked}
        assert free, f"{ALLOWED.keys() - ranked} import each other"
        ranked |= free


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "pvt_jax")))
def test_imports_point_one_way(path):
    room = room_of(path)
    for name in imports(ast.parse(path.read_text())):
        package, *rest = name.split(".")
        if package == "pvt_jax":
            assert rest, "inside the package its parts are imported by name"
            if room not in PUBLIC:
                assert rest[0] in ALLOWED[room] | {room, "errors"}, f"{room} imports {name}"
            else:
                assert rest[0] not in PUBLIC, f"{path.name} imports the command {name}"
        else:
            assert package not in ("configs", "experiments", "tests"), f"{room} imports {name}"
            if package in RESTRICTED and room not in PUBLIC:
                assert room in RESTRICTED[package], f"{room} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_configs_import_little(path):
    for name in imports(ast.parse(path.read_text())):
        allowed = ("ml_collections", "configs.common", "pvt_jax.data.sources", "pvt_jax.errors")
        assert name.startswith(allowed), f"{path.name} imports {name}"


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


@pytest.mark.parametrize("room", ["models", "ops", "losses"])
def test_only_commands_read_flags_or_the_environment(room):
    for path in (ROOT / "pvt_jax" / room).rglob("*.py"):
        for name in imports(ast.parse(path.read_text())):
            assert name.split(".")[0] not in ("os", "sys", "absl", "argparse"), f"{path.name} imports {name}"
