"""The house: imports point down, in no circle, and no room is too long, no wing too full."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = [  # from the top down; a wing imports from itself and from what stands below it
    *("cli", "study", "tune", "bench", "report", "sklearn", "deploy", "training", "evaluate"),
    *("methods",),
    *("runs", "models", "device", "config", "data.batches", "data", "data.sets"),
    *("data.pictures", "balance", "files", "console", "words"),
]
FULL = ("cli", "methods")  # may have more than MAX_ROOMS
MAX_LINES, MAX_ROOMS = 300, 10
TOO_LONG: tuple[str, ...] = ()  # rooms that are still to be divided


def rooms_of(root: Path) -> dict[str, ast.Module]:
    """Each module below `root`/wbcli by its name without `wbcli.`; the package itself is ""."""
    found = {}
    for path in sorted((root / "wbcli").rglob("*.py")):
        parts = path.relative_to(root / "wbcli").with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name] = ast.parse(path.read_text())
    return found


def imports_of(tree: ast.Module, rooms: set[str], room: str) -> set[str]:
    """The rooms that a room imports, anywhere in it, also by name as the command line does."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{room}: imports are absolute"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            beginning = ast.unparse(node.args[0]).strip("f\"'").split("{")[0]
            below = beginning.removeprefix("wbcli.")
            found |= {f"wbcli.{name}" for name in rooms if name.startswith(below)}
    names = {name.removeprefix("wbcli.") for name in found if name.startswith("wbcli.")}
    inside = {name for name in names if name in rooms}
    # `from wing import room` names the wing, too, which holds nothing itself
    return {name for name in inside if not any(other.startswith(f"{name}.") for other in rooms)}


def wing_of(room: str) -> str:
    """The entry of ORDER that a room belongs to."""
    parts = room.split(".")
    names = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return next((name for name in names if name in ORDER), "")


def upward(root: Path) -> list[str]:
    rooms = rooms_of(root)
    found = []
    for room, tree in rooms.items():
        if room in ("", "__main__"):  # the doors: they open what is asked for
            continue
        assert wing_of(room), f"{room} is in no wing"
        for other in imports_of(tree, set(rooms), room):
            if ORDER.index(wing_of(other)) < ORDER.index(wing_of(room)):
                found.append(f"{room} imports {other}")
    return sorted(found)


def circles(root: Path) -> list[str]:
    """Rooms that import themselves, over others."""
    rooms = rooms_of(root)
    arrows = {room: imports_of(tree, set(rooms), room) - {room} for room, tree in rooms.items()}
    arrows["cli"] = set()  # it opens its commands by name, and they take nothing from it
    found = []
    for start in arrows:
        seen, waiting = set(), list(arrows[start])
        while waiting:
            room = waiting.pop()
            if room not in seen:
                seen.add(room)
                waiting += arrows.get(room, ())
        if start in seen:
            found.append(start)
    return sorted(found)


def test_no_room_imports_from_a_wing_above():
    assert upward(ROOT) == []


def test_no_circle_of_rooms():
    assert circles(ROOT) == []


def test_no_room_is_too_long():
    lengths = {
        ".".join(path.relative_to(ROOT / "wbcli").with_suffix("").parts): len(
            path.read_text().splitlines()
        )
        for path in (ROOT / "wbcli").rglob("*.py")
    }
    assert sorted(room for room, lines in lengths.items() if lines > MAX_LINES) == sorted(TOO_LONG)


def test_no_wing_is_too_full():
    wings: dict[str, int] = {}
    for path in (ROOT / "wbcli").rglob("*.py"):
        wing = ".".join(path.parent.relative_to(ROOT / "wbcli").parts)
        if path.name != "__init__.py":
            wings[wing] = wings.get(wing, 0) + 1
    assert [w for w, count in wings.items() if count > MAX_ROOMS and w not in FULL] == []


def test_every_wing_is_installed():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "packages"
    ]
    folders = [path.parent for path in (ROOT / "wbcli").rglob("__init__.py")]
    assert sorted(packages) == sorted(".".join(f.relative_to(ROOT).parts) for f in folders)


@pytest.fixture
def house(tmp_path) -> Path:
    """Three rooms in two wings, whose imports point down."""
    for wing in ("runs", "files"):
        (tmp_path / "wbcli" / wing).mkdir(parents=True)
        (tmp_path / "wbcli" / wing / "__init__.py").touch()
    (tmp_path / "wbcli" / "__init__.py").touch()
    (tmp_path / "wbcli" / "runs" / "run.py").write_text("from wbcli.files import storage\n")
    (tmp_path / "wbcli" / "files" / "storage.py").write_text("from wbcli.files.readers import x\n")
    (tmp_path / "wbcli" / "files" / "readers.py").write_text("x = 1\n")
    return tmp_path


def test_a_made_up_house_is_in_order(house):
    assert upward(house) == circles(house) == []


@pytest.mark.parametrize(
    "line",
    [
        "from wbcli.runs import run",
        "from wbcli.runs.run import Run",
        "import wbcli.runs.run",
        "def late():\n    from wbcli.runs.run import Run",
        "from importlib import import_module\nimport_module('wbcli.runs.run')",
        "from importlib import import_module\nimport_module(f'wbcli.runs.{__name__}')",
    ],
)
def test_an_import_upwards_is_found_however_it_is_written(house, line):
    (house / "wbcli" / "files" / "readers.py").write_text(f"{line}\n")
    assert upward(house) == ["files.readers imports runs.run"]


def test_a_circle_is_found(house):
    (house / "wbcli" / "files" / "readers.py").write_text(
        "def late():\n    from wbcli.files import storage\n"
    )
    assert circles(house) == ["files.readers", "files.storage"]
    assert upward(house) == []
