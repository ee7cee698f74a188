"""What runs leave in a folder, to be compared with what others leave."""

import json

TIMES = {"seconds", "peakBytes", "timings"}
"""Fields that tell how long a run took and how much memory; they lie outside of what is always the same."""


def content(folder):
    """All files of a folder, without the times in them, and without where unfinished work was."""
    return {
        path.relative_to(folder).as_posix(): without_times(json.loads(path.read_bytes()))
        if path.suffix == ".json"
        else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "partial.json"
    }


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value
