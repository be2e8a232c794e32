"""The house rules that a program can check: who imports whom, sizes, and that importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cola_jax"
FOLDERS = ("cola_jax", "experiments", "tests", "benchmarks", "launch")

# Who may import whom; everyone may import config, errors and storage, and a room itself.
# `family` is families.family, cost and keys: what a family is, costs and draws from. `table` is FAMILIES.
FOR_ALL = {"config", "errors", "storage"}
BELOW_FAMILIES = {"models", "diffusion", "generate"}
TRAINED = {"parallel", "family", "table", "scaling"}
BELOW_RUNS = BELOW_FAMILIES | TRAINED | {"families", "data", "train", "aot", "interop"}
MAY_IMPORT = {
    "config": set(),
    "storage": set(),
    "models": set(),
    "diffusion": set(),
    "generate": {"models", "diffusion"},
    "families": BELOW_FAMILIES | {"family"},
    "data": set(),
    "parallel": set(),
    "scaling": {"family", "table"},
    "train": TRAINED,
    "aot": TRAINED | {"train"},
    "interop": BELOW_FAMILIES | {"family", "table", "families", "train", "data", "parallel"},
    "runs": BELOW_RUNS,
    "evaluate": BELOW_RUNS | {"runs"},
    "demo": BELOW_RUNS | {"runs", "evaluate"},
    "commands": BELOW_RUNS | {"runs", "evaluate", "demo"},
}
# Modules that read or write local files by design: copies that storage has made, the user's own code, /proc.
LOCAL_FILES = {
    "commands/arguments", "config/files", "data/columns", "data/files", "data/fingerprint", "data/new_folder",
    "data/object_cache", "data/pydocs", "data/text_files", "evaluate/benchmark", "evaluate/protocol", "interop/llama",
    "interop/record", "interop/safetensors_file", "interop/weight_files", "runs/compilation", "train/claim",
}  # fmt: skip
OS_CALLS = {
    f"os.{name}"
    for name in ("stat", "listdir", "scandir", "walk", "replace", "rename", "remove", "unlink", "makedirs", "access")
}
LOOSE = {"__init__", "cli", "errors"}  # modules beside the rooms
EVALUATED = {f"cola_jax.families.{name}" for name in ("vae_terms", "likelihood", "cola_likelihood", "rows")}


def sources(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path):
    return str(path.relative_to(ROOT))


def imported(path):
    """Every module of ours that a file imports, wherever in it: cola_jax.a.b, or cola_jax.a for `from cola_jax import a`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "cola_jax")
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cola_jax":
            for alias in node.names:
                inner = PACKAGE.joinpath(*node.module.split(".")[1:], alias.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def room(module):
    """The room of a module. Of the families, `family` and the table FAMILIES are told apart from what is in them."""
    parts = module.split(".")[1:]
    if parts and parts[0] == "families":
        what = parts[1] if len(parts) > 1 else ""
        return {"": "table", "family": "family", "cost": "family", "keys": "family"}.get(what, "families")
    return parts[0] if parts else "cola_jax"


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_a_room_imports_only_what_it_may(name):
    allowed = MAY_IMPORT[name] | {name} | FOR_ALL
    paths = sorted((PACKAGE / name).rglob("*.py"))
    assert paths
    for path in paths:
        wrong = sorted(module for module in imported(path) if room(module) not in allowed)
        assert not wrong, f"{name_of(path)} imports {', '.join(wrong)}"


def test_every_room_has_a_rule_and_no_module_of_logic_lies_beside_them():
    found = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert found == set(MAY_IMPORT), "a new room needs a line in MAY_IMPORT"
    assert {path.stem for path in PACKAGE.glob("*.py")} == LOOSE


def test_evaluation_knows_families_by_their_table_the_vae_by_its_terms_and_likelihoods():
    for path in (PACKAGE / "evaluate").rglob("*.py"):
        found = {module for module in imported(path) if room(module) == "families"}
        wrong = sorted(found - EVALUATED)
        assert not wrong, f"{name_of(path)} imports {', '.join(wrong)}"


def test_nothing_imports_the_command_line():
    for path in sources("cola_jax", "experiments"):
        assert "cli" not in map(room, imported(path)), f"{name_of(path)} imports cola_jax.cli"


def test_whole_models_and_families_do_not_import_each_other():
    models, families = {"dit", "text_vae", "backbone"}, {"text_vae", "cola", "ar", "llada", "plaid"}
    for folder, whole in (("models", models), ("families", families)):
        for path in (PACKAGE / folder).glob("*.py"):
            if path.stem in whole:
                others = {f"cola_jax.{folder}.{name}" for name in whole - {path.stem}}
                assert others.isdisjoint(imported(path)), f"{name_of(path)} imports another whole one"


def test_experiments_import_config_and_each_other_alone():
    for path in sources("experiments"):
        wrong = [module for module in imported(path) if room(module) != "config"]
        assert not wrong, f"{name_of(path)} imports {', '.join(wrong)}"


def test_files_are_at_most_350_lines():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in sources(*FOLDERS)}
    assert not {name: length for name, length in lengths.items() if length > 350}


def lines_of(function):
    """Lines of a function without its docstring."""
    length = function.end_lineno - function.lineno + 1
    first = function.body[0]
    is_docstring = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return length - (first.end_lineno - first.lineno + 1 if is_docstring else 0)


def functions(path):
    """(name with its classes and functions, node) of every function of a file, wherever it stands."""

    def inside(node, owner):
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            name = f"{owner}.{child.name}".lstrip(".") if named else owner
            if named and not isinstance(child, ast.ClassDef):
                yield name, child
            yield from inside(child, name)

    return inside(ast.parse(path.read_text()), "")


def test_functions_are_at_most_60_lines_without_their_docstrings():
    found = {
        f"{name_of(path)}:{node.lineno} {name}": lines_of(node)
        for path in sources(*FOLDERS)
        for name, node in functions(path)
    }
    assert len(found) > 2000
    assert not {name: length for name, length in found.items() if length > 60}


def test_there_is_no_drawer_for_everything():
    assert not [
        name_of(path) for path in sources(*FOLDERS) if path.stem in {"utils", "util", "helpers", "misc", "common"}
    ]


def file_calls(path):
    """Calls that touch files of a local disk alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in {"open", "Path"}:
            yield node.lineno, called.id
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            name = f"{called.value.id}.{called.attr}"
            if called.value.id == "shutil" or name in OS_CALLS:
                yield node.lineno, name


def test_paths_go_through_storage_in_all_modules_but_those_of_local_files():
    found = {name_of(path)[len("cola_jax/") : -3] for path in sources("cola_jax") if list(file_calls(path))}
    assert {name for name in found if not name.startswith("storage/")} == LOCAL_FILES


def test_the_library_reads_no_environment_variable():
    for path in sources("cola_jax"):
        read = [
            node for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
        ]  # fmt: skip
        assert not read, f"{name_of(path)}, line {read[0].lineno}, reads the environment"


def test_modules_have_no_mutable_collections_and_inherit_from_nothing_of_ours():
    for path in (PACKAGE / "models").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            assert called not in {"sow", "variable", "put_variable"}, f"{name_of(path)}, line {node.lineno}: {called}"
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base) for base in node.bases]
                assert set(bases) <= {"nn.Module", "NamedTuple", "Protocol", "splash_attention.Mask"}, (
                    f"{name_of(path)}: {node.name}({bases})"
                )


QUIET = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "importing started a backend"
"""


def test_importing_starts_no_backend_and_says_nothing():
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources("cola_jax")]
    modules = [module.removesuffix(".__init__") for module in modules]
    done = subprocess.run(
        [sys.executable, "-c", QUIET, *modules], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


LIGHT = """
import sys
import cola_jax.cli
cola_jax.cli.build_parser()
assert "jax" not in sys.modules, "help should not wait for jax"
"""


def test_the_command_lines_help_does_not_wait_for_jax():
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_every_module_says_what_it_is_for():
    for path in sources("cola_jax", "experiments"):
        tree = ast.parse(path.read_text())
        assert not tree.body or ast.get_docstring(tree), f"{name_of(path)} has no docstring"
