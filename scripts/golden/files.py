"""Where goldens live, and how they are written."""

import importlib.metadata
import json
import math
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
MODELS = GOLDEN / "models"
ADAPTERS = GOLDEN / "adapters"


def how(command, *packages):
    """States what made a golden file: the package versions, the command from the root."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return ", ".join(versions) + "; scripts/" + command


def _text(value):
    """JSON on one line, floats with the nine digits that name an f32."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no place in a golden file")
        return f"{value:.9g}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{_text(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=True)


def write_json(path, head, list_name, items):
    """An object whose last member is a list with one item a line, so that diffs are short."""
    lines = ["{"]
    lines += [f"{json.dumps(key)}:{_text(value)}," for key, value in head.items()]
    lines.append(f"{json.dumps(list_name)}:[")
    lines.append(",\n".join(_text(item) for item in items))
    lines += ["]", "}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    json.loads(path.read_text())
    print(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}: "
          f"{len(items)} {list_name}, {path.stat().st_size} bytes")


def write_plain(path, value):
    """Plain indented JSON, as configuration files are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
