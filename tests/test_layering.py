"""Tests of imports, and of access to flags, environment, output, clocks."""

import ast
import graphlib
import itertools
import sys

import pytest
from commands import ROOT, python

LIBRARY = sorted((ROOT / "focal_sam_jax").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))
ALLOWED = {"jax", "optax", "chex", "numpy", "focal_sam_jax"} | sys.stdlib_module_names
COMMANDS = {"train", "compare", "report", "benchmark", "analyze", "prepare"}
COMMANDS |= {"predict", "zero_shot", "export"}
# Shared by the commands: options, exit status, progress and terminal.
FRONT = COMMANDS | {"cli", "ending", "progress", "terminal"}
WORLD = {"argparse", "tyro", "getopt", "optparse", "click", "absl"}
DECLARES_FLAGS = ROOT / "experiments" / "config.py"


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(path):
    """Returns the top-level file or folder of the experiments for a module."""
    return path.relative_to(ROOT / "experiments").with_suffix("").parts[0]


every_library_module = pytest.mark.parametrize("path", LIBRARY, ids=name_of)
every_module_below = pytest.mark.parametrize(
    "path", [path for path in EXPERIMENTS if room_of(path) not in FRONT], ids=name_of
)


def imports(path):
    """Yields the full names of modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(path):
    return {name.split(".")[0] for name in imports(path)}


def modules_after(statement):
    """Returns the modules that a fresh interpreter has loaded after ``statement``."""
    done = python(f"import sys; {statement}; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_there_is_something_to_look_at():
    assert len(LIBRARY) > 5 and len(EXPERIMENTS) > 5


@every_library_module
def test_the_library_imports_little(path):
    assert packages(path) <= ALLOWED


@pytest.mark.parametrize(
    "files", [LIBRARY, EXPERIMENTS], ids=["library", "experiments"]
)
def test_imports_make_no_circle(files):
    names = {name_of(path) for path in files}
    arrows = {name_of(path): set() for path in files}
    for path in files:
        for name in imports(path):
            module = name if name in names else name.rpartition(".")[0]
            arrows[name_of(path)] |= names & {module}
    list(graphlib.TopologicalSorter(arrows).static_order())


# A module of the library imports only from lower floors.
FLOORS = [
    {"_checks", "_devices", "_shared_backward"},
    {"_class_weights", "_perturbation"},
    {"losses", "_evaluation"},
    {"_methods", "sharpness._class_losses"},
    {"_transforms", "sharpness._rises", "sharpness._spectrum", "sharpness._landscape"},
    {"_value_and_grad", "_approximations", "sharpness"},
    {""},
]


def test_the_library_has_floors():
    floor_of = {
        ".".join(filter(None, ("focal_sam_jax", name))): number
        for number, names in enumerate(FLOORS)
        for name in names
    }
    assert {name_of(path) for path in LIBRARY} == floor_of.keys()
    for path in LIBRARY:
        for name in imports(path):
            module = name if name in floor_of else name.rpartition(".")[0]
            if module in floor_of:
                assert floor_of[module] < floor_of[name_of(path)], f"{path}: {name}"


# A room of the experiments imports only from itself and from lower floors.
ROOMS = [
    {"errors", "metrics", "terminal", "randomness"},
    {"config", "devices"},
    {"configs", "models", "data"},
    {"records"},
    {"training", "figures"},
    {"reporting"},
    {"sharpness", "comparison", "progress", "cli", "ending"},
    COMMANDS | {"__init__"},  # Python runs this before any of them
]


def test_the_experiments_have_floors():
    floor_of = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
    assert {room_of(path) for path in EXPERIMENTS} == floor_of.keys()
    for path in EXPERIMENTS:
        own = room_of(path)
        for name in imports(path):
            package, _, room = name.partition(".")
            room = room.partition(".")[0]
            if package == "experiments" and room != own:
                assert floor_of[room] < floor_of[own], f"{path}: {name}"


# Modules of a step, from the command to the arithmetic.
STEP = ["train", "training.loop", "training.trainer", "training.step"]


def test_a_step_is_four_files_away():
    for here, there in itertools.pairwise(STEP):
        path = ROOT / "experiments" / (here.replace(".", "/") + ".py")
        found = {name.rpartition(".")[0] for name in imports(path)}
        assert f"experiments.{there}" in found, here


def test_data_know_nothing_of_training():
    for path in EXPERIMENTS:
        if room_of(path) == "data":
            assert not [name for name in imports(path) if "training" in name], path


def test_importing_the_library_loads_nothing_of_the_experiments():
    banned = "flax torch sklearn matplotlib orbax tyro rich tensorflow experiments"
    assert not modules_after("import focal_sam_jax") & set(banned.split())


def test_importing_the_training_command_loads_no_other_framework():
    loaded = modules_after("import experiments.train")
    assert not loaded & {"torch", "tensorflow"}


@pytest.mark.parametrize(
    ("package", "home"), [("flax", "models"), ("torch", "benchmark/torch")]
)
def test_a_framework_is_known_by_one_folder(package, home):
    folder = ROOT / "experiments" / home
    knowing = [path for path in EXPERIMENTS if package in packages(path)]
    assert [path for path in knowing if not path.is_relative_to(folder)] == []


@every_module_below
def test_below_the_commands_nothing_parses_flags(path):
    allowed = {"tyro"} if path == DECLARES_FLAGS else set()
    assert not packages(path) & (WORLD - allowed)
    assert "sys.argv" not in set(dotted_names(path)) | set(imports(path))


@every_module_below
def test_below_the_commands_nothing_reads_the_environment(path):
    used = set(dotted_names(path)) | set(imports(path))
    assert not used & {"os.environ", "os.getenv", "os.putenv"}


@every_module_below
def test_below_the_commands_nothing_prints(path):
    used = set(dotted_names(path)) | set(imports(path))
    banned = {"print", "input", "sys.stdout", "sys.stderr", "jax.debug.print"}
    assert not used & (banned | {"rich.print", "rich.console.Console"})


@every_module_below
def test_below_the_commands_nothing_reads_a_clock(path):
    assert not packages(path) & {"time", "datetime", "timeit"}


def dotted_names(path):
    """Every name and attribute chain that a file uses, such as ``os.environ``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name | ast.Attribute):
            yield ast.unparse(node)


def test_a_missing_extra_is_explained():
    hide = "import sys; sys.modules['flax'] = None; sys.modules['tyro'] = None"
    attempt = (
        "\ntry:\n    import experiments.train\nexcept ImportError as e:\n    print(e)"
    )
    assert "pip install -e '.[experiments]'" in python(hide + attempt).stdout
