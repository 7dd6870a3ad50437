"""Which package may import which: the order that keeps the parts apart."""

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tqconvert"
FILES = sorted(PACKAGE.rglob("*.py"))

GROUND = {"", "digest", "errors", "filelocks", "findings", "fs", "progress", "reference", "units"}
"""Modules that stand on nothing but each other."""

MAY_IMPORT = {
    **dict.fromkeys(GROUND, GROUND),
    "settings": GROUND,
    "gguf": GROUND,
    "kv": GROUND | {"gguf"},
    "modelfile": GROUND | {"gguf", "kv", "store", "models"},
    "store": GROUND | {"gguf", "kv", "modelfile"},
    "forms": GROUND | {"gguf", "store"},
    "registry": GROUND | {"settings", "gguf", "store", "forms"},
    "turbo": GROUND | {"gguf", "kv"},
    "patches": GROUND,
    "runtime": GROUND | {"gguf", "kv", "patches"},
    "metal": GROUND | {"patches", "runtime", "turbo"},
    "quality": GROUND | {"gguf", "kv", "runtime"},
    "models": GROUND | {"gguf", "store"},
    "summary": GROUND | {"gguf", "kv"},
    "doctor": GROUND | {"settings", "store"},
    "pull": GROUND
    | {"settings", "gguf", "kv", "modelfile", "store", "registry", "models", "forms"},
    "push": GROUND | {"settings", "gguf", "modelfile", "store", "registry", "models", "forms"},
    "documents": GROUND,
    "provenance": GROUND | {"settings", "gguf", "store", "registry", "models", "pull"},
    "__main__": {"cli"},
}
"""Part -> the parts it may import besides itself; `cli` may import all."""

NUMERIC = {
    "tqconvert.turbo.codec",
    "tqconvert.turbo.qjl",
    "tqconvert.metal.check.attention",
    "tqconvert.metal.check.case",
    "tqconvert.metal.check.copies",
    "tqconvert.metal.check.elementwise",
    "tqconvert.metal.check.families",
    "tqconvert.metal.check.formats",
    "tqconvert.metal.check.matmul",
    "tqconvert.metal.check.images",
    "tqconvert.metal.check.rotations",
    "tqconvert.metal.check.rows",
    "tqconvert.metal.turbo.attention",
    "tqconvert.metal.turbo.family",
    "tqconvert.metal.turbo.launches",
    "tqconvert.metal.turbo.plan",
    "tqconvert.metal.turbo.reference",
    "tqconvert.metal.turbo.rows",
}
"""Modules that are NumPy through and through: others import them inside functions, as they do numpy."""
SLOW = {"numpy", "gguf", "huggingface_hub", "urllib3", "tqdm", "filelock", "psutil", "platformdirs"}


def part_of(path: Path) -> str:
    """First name below the package: `kv`, `errors`, "" for the package itself."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0].removesuffix("__init__")


def imported(tree: ast.AST) -> set[str]:
    """Names of all modules that are imported anywhere in the file."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= set(names) if node.module == "tqconvert" else {node.module}
    return found


def test_every_part_has_its_place() -> None:
    """A new part of the package gets a line in the table above."""
    assert {part_of(f) for f in FILES} - {"cli"} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    """No part imports one that stands above or beside it, not even inside a function."""
    part = part_of(path)
    if part == "cli":
        return
    for name in imported(ast.parse(path.read_text("utf-8"))):
        if not name.startswith("tqconvert"):
            continue
        target = [*name.split("."), ""][1].replace("__version__", "")
        assert target == part or target in MAY_IMPORT[part], f"{part} imports {name}"


def test_modules_import_each_other_in_one_direction() -> None:
    """No module imports, through others, itself: each can be read after those below it."""
    names = {
        ".".join(f.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): f
        for f in FILES
    }
    graph = {n: imported(ast.parse(f.read_text("utf-8"))) & set(names) for n, f in names.items()}
    sorter = graphlib.TopologicalSorter(
        {n: below - {n, "tqconvert"} for n, below in graph.items() if ".cli" not in n}
    )
    sorter.prepare()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_slow_packages_are_imported_where_they_are_used(path: Path) -> None:
    """numpy, gguf and the like are imported inside functions: --help must not pay for them."""
    own = ".".join(("tqconvert", *path.relative_to(PACKAGE).with_suffix("").parts))
    tree = ast.parse(path.read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {n.split(".")[0] for n in imported(ast.Module([node], []))}
            assert not names & SLOW or own in NUMERIC, f"line {node.lineno}"
            below = imported(ast.Module([node], [])) & NUMERIC
            assert not below or own in NUMERIC, f"line {node.lineno}: {below}"
