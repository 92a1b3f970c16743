"""``likeness tune``: measure how the networks are best run here, and keep it for ``likeness serve``."""

import argparse
import json
from dataclasses import asdict
from typing import Any

from service.cli.options import settings_of
from service.engine import runtime_options
from service.runtime.bundle import locate, open_bundle
from service.runtime.measure import WORTH, measure
from service.runtime.tuning import keep, plan_file


def add_command(commands: Any, local: argparse.ArgumentParser) -> None:
    """Register the sub-command."""
    command = commands.add_parser("tune", parents=[local], help="measure how the networks are best run on this machine")
    command.add_argument("--seconds", type=float, default=0.25, help="for each way, in each of two rounds (0.25)")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print, keep."""
    settings = settings_of(args)
    bundle = open_bundle(locate(settings.bundle, settings.data_dir))
    plan, found = measure(bundle, runtime_options(settings, settings.gpus[0]), args.seconds)
    file = plan_file(settings.data_dir, bundle.card, settings.provider, settings.gpus[0])
    keep(plan, file)
    if args.json:
        print(json.dumps({"plan": asdict(plan), "measured": [asdict(m) for m in found], "file": str(file)}))
        return 0
    print(f"{'network':<10}{'threads':>8}{'at once':>9}{'batch':>7}{'images/s':>10}{'ratio':>8}")
    base = {m.network: m.rate for m in reversed(found) if m.batch == 1}
    for m in found:
        ratio = m.rate / base[m.network]
        print(f"{m.network:<10}{m.threads:>8}{m.at_once:>9}{m.batch:>7}{m.rate:>10.1f}{ratio:>8.2f}")
    print(f"\n{plan}\nA way that gains less than {100 * (WORTH - 1):.0f} % is not taken. Kept in {file}.")
    return 0
