"""What of each room the tests have run: the end of ``make coverage``, after ``coverage json``."""

import argparse
import json
from collections import defaultdict
from pathlib import Path

PARTS = ("service", "export", "models")


def room_of(file: str) -> str:
    """``service/api/routes/photos.py`` is in ``service/api``, ``service/files.py`` in ``service``."""
    parts = Path(file).parts[:-1]
    return "/".join(parts[:2] if parts[0] in PARTS else parts[:1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="what `coverage json` has written")
    files = json.loads(parser.parse_args().report.read_text())["files"]
    statements: dict[str, int] = defaultdict(int)
    missing: dict[str, int] = defaultdict(int)
    for file, told in files.items():
        for room in (room_of(file), "all"):
            statements[room] += told["summary"]["num_statements"]
            missing[room] += told["summary"]["missing_lines"]
    print("| room | statements | run |\n| --- | --- | --- |")
    for room in [*sorted(set(statements) - {"all"}), "all"]:
        print(f"| {room} | {statements[room]:,} | {100 * (1 - missing[room] / max(statements[room], 1)):.1f} % |")


if __name__ == "__main__":
    main()
