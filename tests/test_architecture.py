"""The rules of the architecture, held over the source: who may import whom, and what stays pure."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastxfer"

# The rooms from the top down, by the longest matching prefix of a module's name. Imports run downward only.
ROOMS = ["face", "api", "drivers", "effects", "pure", "native"]
ROOM_OF = {
    "fastxfer.__main__": "face",
    "fastxfer.cli": "face",
    "fastxfer.progress.bar": "face",
    "fastxfer.progress.reporter": "face",
    "fastxfer.queue": "face",
    "fastxfer.many": "face",
    "fastxfer.batch": "face",
    "fastxfer.uploading": "face",
    "fastxfer.copying": "face",
    "fastxfer.mirroring": "face",
    "fastxfer.reading": "face",
    "fastxfer.awaiting": "face",
    "fastxfer.benching": "face",
    "fastxfer.mirrorbench.table": "face",
    "fastxfer": "api",
    "fastxfer.api": "api",
    "fastxfer.download": "drivers",
    "fastxfer.lanes": "drivers",
    "fastxfer.racing": "drivers",
    "fastxfer.governing": "drivers",
    "fastxfer.neighbours": "drivers",
    "fastxfer.safekeeping": "drivers",
    "fastxfer.ledgers": "drivers",
    "fastxfer.examining": "drivers",
    "fastxfer.repairing": "drivers",
    "fastxfer.verification": "drivers",
    "fastxfer.refreshing": "drivers",
    "fastxfer.refusals": "drivers",
    "fastxfer.vouching": "drivers",
    "fastxfer.subject": "drivers",
    "fastxfer.mirrors": "drivers",
    "fastxfer.sampling": "drivers",
    "fastxfer.metalinks": "drivers",
    "fastxfer.probing": "drivers",
    "fastxfer.background": "drivers",
    "fastxfer.copy_run": "drivers",
    "fastxfer.copy_job": "drivers",
    "fastxfer.ranged_source": "drivers",
    "fastxfer.ranged_get": "drivers",
    "fastxfer.ranged_requests": "drivers",
    "fastxfer.buffers": "drivers",
    "fastxfer.remote_reading": "drivers",
    "fastxfer.remote_blocks": "drivers",
    "fastxfer.remote_stream": "drivers",
    "fastxfer.remote_file": "drivers",
    "fastxfer.copy_fields": "drivers",
    "fastxfer.copy_checks": "drivers",
    "fastxfer.copy_whole": "drivers",
    "fastxfer.copy_sending": "drivers",
    "fastxfer.copy_streaming": "drivers",
    "fastxfer.copy_resuming": "drivers",
    "fastxfer.copy_in_store": "drivers",
    "fastxfer.upload": "drivers",
    "fastxfer.upload_parts": "drivers",
    "fastxfer.upload_job": "drivers",
    "fastxfer.upload_resuming": "drivers",
    "fastxfer.upload_sending": "drivers",
    "fastxfer.upload_finishing": "drivers",
    "fastxfer.upload_store": "drivers",
    "fastxfer.uploads": "drivers",
    "fastxfer.tus_upload": "drivers",
    "fastxfer.tus_lane": "drivers",
    "fastxfer.tus_start": "drivers",
    "fastxfer.tus_server": "drivers",
    "fastxfer.store_calls": "drivers",
    "fastxfer.local_file": "drivers",
    "fastxfer.database": "effects",
    "fastxfer.fetching": "drivers",
    "fastxfer.dataset": "drivers",
    "fastxfer.dataset.entries": "pure",
    "fastxfer.dataset.compare": "pure",
    "fastxfer.dataset.filters": "pure",
    "fastxfer.dataset.report": "pure",
    "fastxfer.dataset.page": "pure",
    "fastxfer.drawing": "pure",
    "fastxfer.page_file": "effects",
    "fastxfer.mirror_options": "pure",
    "fastxfer.small": "drivers",
    "fastxfer.mirrorbench": "drivers",
    "fastxfer.mirrorbench.drawing": "pure",
    "fastxfer.mirrorbench.findings": "pure",
    "fastxfer.mirrorbench.identity": "pure",
    "fastxfer.mirrorbench.sampling": "pure",
    "fastxfer.mirrorbench.statistics": "pure",
    "fastxfer.mirrorbench.words": "pure",
    "fastxfer.mirrorbench.page": "pure",
    "fastxfer.mirrorbench.report": "pure",
    "fastxfer.engine": "effects",
    "fastxfer.storage": "effects",
    "fastxfer.sources": "effects",
    "fastxfer.sources.locations": "pure",
    "fastxfer.sources.schemes": "pure",
    "fastxfer.sources.credentials": "pure",
    "fastxfer.sources.store_request": "pure",
    "fastxfer.sources.signing": "pure",
    "fastxfer.sources.oss_signing": "pure",
    "fastxfer.sources.store_xml": "pure",
    "fastxfer.sources.told_checksums": "pure",
    "fastxfer.sources.store_errors": "pure",
    "fastxfer.sources.clock_skew": "pure",
    "fastxfer.sources.multipart": "pure",
    "fastxfer.sources.object_listing": "pure",
    "fastxfer.sources.tus": "pure",
    "fastxfer.plan": "pure",
    "fastxfer.options": "pure",
    "fastxfer.put_options": "pure",
    "fastxfer.bench_options": "pure",
    "fastxfer.copy_options": "pure",
    "fastxfer.errors": "pure",
    "fastxfer.latch": "effects",
    "fastxfer.names": "pure",
    "fastxfer.inputs": "pure",
    "fastxfer.description": "pure",
    "fastxfer.units": "pure",
    "fastxfer.results": "pure",
    "fastxfer.probe_result": "pure",
    "fastxfer.put_results": "pure",
    "fastxfer.verify_results": "pure",
    "fastxfer.values": "pure",
    "fastxfer.progress.snapshot": "pure",
    "fastxfer.progress": "pure",
    "fastxfer._version": "pure",
    "fastxfer._native": "native",
}
EFFECTS = ["fastxfer.engine", "fastxfer.storage", "fastxfer.sources"]

# Imports inside a function that go upward, each on purpose.
DEFERRED_UPWARD = {
    ("fastxfer.api", "fastxfer.progress.reporter"),
    # Public names that are imported when they are asked for.
    ("fastxfer", "fastxfer.batch"),
    ("fastxfer", "fastxfer.many"),
    ("fastxfer", "fastxfer.queue"),
    ("fastxfer", "fastxfer.uploading"),
    ("fastxfer", "fastxfer.copying"),
    ("fastxfer", "fastxfer.mirroring"),
    ("fastxfer", "fastxfer.reading"),
    ("fastxfer", "fastxfer.awaiting"),
    # A value that is asked to write itself down.
    ("fastxfer.dataset.report", "fastxfer.page_file"),
    ("fastxfer", "fastxfer.benching"),
    # What a value draws itself with.
    ("fastxfer.mirrorbench.report", "fastxfer.mirrorbench.plot"),
}

# All that a pure module may take from outside the package; a list where only some names are pure.
PURE_IMPORTS: dict[str, list[str] | None] = {
    "__future__": None,
    "base64": None,
    "bisect": None,
    "calendar": ["timegm"],
    "csv": None,
    "collections": None,
    "collections.abc": None,
    "dataclasses": None,
    "datetime": ["datetime", "timezone", "timedelta"],
    "email.utils": ["parsedate_to_datetime"],
    "enum": None,
    "errno": None,
    "functools": None,
    "hashlib": ["sha256"],
    "heapq": None,
    "hmac": None,
    "html": ["escape"],
    "html.parser": None,
    "http": ["HTTPStatus"],
    "ipaddress": None,
    "itertools": None,
    "json": None,  # texts, not files
    "math": None,
    "os": ["PathLike"],
    "numpy": None,  # its random numbers are of a seed that it is given
    "random": ["Random"],  # as an argument
    "re": None,
    "time": ["gmtime"],  # of a time that it is given
    "typing": None,
    "unicodedata": None,
    "urllib.parse": None,
    "xml.parsers": ["expat"],
}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint", "globals"}


@dataclass(frozen=True)
class Import:
    """One import: which module takes which (with its names), and whether at the module's own level."""

    by: str
    of: str
    names: tuple[str, ...]
    deferred: bool

    def __str__(self) -> str:
        return f"{self.by} imports {self.of}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, Path]:
    """Returns every Python module of the package, and the compiled ones by their Cython sources."""
    return {module_name(path): path for ext in ("*.py", "*.pyx") for path in sorted(PACKAGE.rglob(ext))}


MODULES = sources()
TREES = {
    name: ast.parse(path.read_text(encoding="utf-8"))
    for name, path in MODULES.items()
    if path.suffix == ".py"
}


def imports_of(name: str) -> list[Import]:
    tree = TREES[name]
    at_top = {id(node) for node in ast.walk(tree)}
    for node in ast.walk(tree):
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if for_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            at_top -= {id(inner) for inner in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        deferred = id(node) not in at_top
        if isinstance(node, ast.Import):
            found += [Import(name, alias.name, (), deferred) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{name} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                of, names = (inner, ()) if inner in MODULES else (node.module, (alias.name,))
                found.append(Import(name, of, names, deferred))
    return found


IMPORTS = [each for name in TREES for each in imports_of(name)]
OWN = [each for each in IMPORTS if each.of.partition(".")[0] == "fastxfer"]


def room_of(module: str) -> str:
    name = module
    while name not in ROOM_OF or (name == "fastxfer" and module != "fastxfer"):
        name = name.rpartition(".")[0]
        assert name, f"{module} has no room: give it one in ROOM_OF"
    return ROOM_OF[name]


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_module_has_a_room(name: str) -> None:
    assert room_of(name) in ROOMS


def test_every_room_on_the_list_is_there() -> None:
    assert {name for name in ROOM_OF if not any(inside(module, name) for module in MODULES)} == set()


def test_imports_run_downward_only() -> None:
    upward = [
        str(each)
        for each in OWN
        if ROOMS.index(room_of(each.of)) < ROOMS.index(room_of(each.by))
        and not (each.deferred and (each.by, each.of) in DEFERRED_UPWARD)
    ]
    assert upward == []


def test_the_exceptions_are_still_needed() -> None:
    assert {(each.by, each.of) for each in OWN if each.deferred} >= DEFERRED_UPWARD


def test_engine_storage_and_sources_do_not_know_each_other() -> None:
    met = [
        str(each)
        for each in OWN
        for one in EFFECTS
        for other in EFFECTS
        if one != other and inside(each.by, one) and inside(each.of, other)
    ]
    assert met == []


def test_nothing_in_the_package_goes_round_in_a_circle() -> None:
    below: dict[str, set[str]] = {name: set() for name in MODULES}
    for each in OWN:
        if not each.deferred and each.of != each.by:
            below[each.by].add(each.of)
    order: list[str] = []
    while below:
        free = [name for name, needs in below.items() if not needs & below.keys()]
        assert free, f"a circle among {sorted(below)}"
        for name in free:
            del below[name]
        order += free
    assert len(order) == len(MODULES)


def test_files_of_a_target_are_reached_relative_to_a_descriptor_only() -> None:
    by_name = {"open", "stat", "lstat", "access", "unlink", "remove", "rename", "replace", "link", "symlink"}
    by_name |= {"mkdir", "makedirs", "rmdir", "exists", "lexists", "isfile", "islink", "getsize"}
    by_path = [
        f"{name}: {ast.unparse(node)}"
        for name, tree in TREES.items()
        if inside(name, "fastxfer.storage") or name == "fastxfer.safekeeping"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) in ("os", "os.path")
        and node.func.attr in by_name
        and not any(keyword.arg in ("dir_fd", "src_dir_fd") for keyword in node.keywords)
    ]
    assert by_path == ["fastxfer.storage.directory: os.open(path, _HOLD)"]


def test_pycurl_appears_in_the_engine_alone() -> None:
    found = {each.by for each in IMPORTS if each.of.partition(".")[0] == "pycurl"}
    assert found and all(inside(name, "fastxfer.engine") for name in found)


def test_what_is_pure_takes_nothing_that_has_an_effect() -> None:
    impure = []
    for each in IMPORTS:
        if room_of(each.by) != "pure" or each in OWN:
            continue
        allowed = PURE_IMPORTS.get(each.of, [])
        if allowed is not None and not (each.names and set(each.names) <= set(allowed)):
            impure.append(f"{each} {each.names}")
    assert impure == []


def test_what_is_pure_calls_nothing_that_has_an_effect() -> None:
    called = [
        f"{name}: {node.func.id}"
        for name, tree in TREES.items()
        if room_of(name) == "pure"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS
    ]
    assert called == ["fastxfer.values: exec"]  # as dataclasses does, of the names of fields


def test_what_is_pure_reads_no_clock() -> None:
    read = [
        f"{name}: {ast.unparse(node)}"
        for name, tree in TREES.items()
        if room_of(name) == "pure"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("gmtime", "formatdate")
        and not node.args
    ]
    read += [
        f"{name}: {ast.unparse(node)}"
        for name, tree in TREES.items()
        if room_of(name) == "pure"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today")
    ]
    assert read == []


def test_plan_needs_nothing_but_itself_and_the_errors() -> None:
    needed = {each.of for each in OWN if inside(each.by, "fastxfer.plan")}
    assert {name for name in needed if not inside(name, "fastxfer.plan")} <= {
        "fastxfer.errors",
        "fastxfer.units",
        "fastxfer.values",
    }


def test_the_compiled_code_needs_nothing_above_it() -> None:
    for name, path in MODULES.items():
        if path.suffix == ".pyx":
            words = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
            taken = {w[1] for w in words if len(w) > 1 and w[0] in ("from", "import", "cimport")}
            assert all(inside(of, "fastxfer._native") for of in taken if of.startswith("fastxfer")), name


def test_the_c_sources_know_no_python() -> None:
    files = sorted((ROOT / "src_c").glob("*.[ch]"))
    assert files
    assert [file.name for file in files if "Python.h" in file.read_text(encoding="utf-8")] == []


def test_no_except_is_bare_and_no_import_is_of_everything_but_the_errors() -> None:
    hidden = []
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                hidden.append(f"{name}:{node.lineno} bare except")
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*" and name != "fastxfer":
                hidden.append(f"{name}:{node.lineno} import *")
    assert hidden == []
