"""Every call of the running service against its OpenAPI document, with all checks of schemathesis, stateful too.

    python -m tests.fuzz.calls --data-dir DIR --schemathesis PROGRAM [--examples 200]

The exit code is schemathesis's. The service's log is searched for traces of defects as well.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

from tests.soak.service import Clock, Service, disk

CONFIG = Path(__file__).with_name("schemathesis.toml")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-dir", type=Path, required=True)
    arguments.add_argument("--schemathesis", type=Path, required=True)
    arguments.add_argument("--examples", type=int, default=200)
    args = arguments.parse_args()
    bundle = (args.data_dir / "bundles" / "open").resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        with disk(folder / "data") as on:
            service = Service(on, Clock(folder), bundle, folder)
            service.start()
            program = [args.schemathesis.resolve(), "--config-file", CONFIG.resolve()]
            done = subprocess.run(
                [
                    *map(str, program),
                    "run",
                    f"{service.url}/openapi.json",
                    *("--header", f"Authorization: Bearer {service.key}"),
                    *("--checks", "all", "--max-examples", str(args.examples), "--request-timeout", "60"),
                ],
                check=False,
                cwd=folder,
            )
            lines = service.verify_audit()
            service.kill()
            traces = (folder / "service.log").read_text(errors="replace").count("Traceback")
    print(f"{traces} traces in the log, {lines} lines in the audit log")
    raise SystemExit(done.returncode or bool(traces))


if __name__ == "__main__":
    main()
