"""``likeness doctor``: what is wrong with a gallery of a running service, as JSON and as a page with figures.

With ``--system`` it is another command, see ``service.cli.system``.
"""

import argparse
import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from likeness.gallery_calls import report as reporting
from service.cli import system
from service.cli.client import client_of
from service.evaluation.doctor_figures import scores_figure
from service.evaluation.folder import aligned, as_json, prepare_folder, write_files
from service.gallery.store_values import checked_id


def add_command(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Register the sub-command."""
    command = commands.add_parser(
        "doctor", parents=[remote], help="duplicates, mislabelled and poor photos of a gallery; --system: this install"
    )
    command.add_argument("gallery", metavar="GALLERY")
    command.add_argument(
        system.OPTION,
        action="store_true",
        help="instead of a gallery: what is wrong with this install (likeness doctor --system --help)",
    )
    command.add_argument("--out", type=Path, metavar="DIR", help="also write report.json, report.html, scores.png")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask, write, print."""
    if args.out:
        prepare_folder(args.out)
    with client_of(args) as client:
        report = client.answer(reporting(checked_id("gallery", args.gallery)))
    if args.out:
        figure = scores_figure(report)
        page = {"scores.png": figure, "report.html": _page(report, figure).encode(), "report.json": as_json(report)}
        write_files(args.out, page)
    print(json.dumps(report) if args.json else _summary(report))
    return 0


def _summary(report: Any) -> str:
    lines = [
        ("gallery", f"{report['gallery']}, {report['persons']:,} persons, {report['faces']:,} faces"),
        ("probable duplicates", f"{len(report['duplicates'])} pairs of persons"),
        ("mislabelled faces", str(len(report["mislabelled"]))),
        ("persons with poor photos only", str(len(report["poor_persons"]))),
    ]
    for score in report["impostor_scores"]:
        here = f"here {score['gallery_fmr']:.2g}" if score["errors"] >= 1 else "here too few to say"
        lines.append((f"at {score['threshold']:.4f}", f"FMR {score['calibration_fmr']:.0e} in the calibration, {here}"))
    for rate in report["expected_fpir"]:
        lines.append(
            (
                f"FPIR {rate['asked']:g} asked",
                f"{rate['expected']:.3g} to expect; with {rate['grown']} × the persons {rate['expected_grown']:.3g}, "
                f"or {rate['expected_grown_same_threshold']:.3g} should the threshold stay",
            )
        )
    return aligned(lines)


def _page(report: Any, figure: bytes) -> str:
    """One file with everything in it."""
    picture = f'<img alt="FMR against threshold" src="data:image/png;base64,{base64.b64encode(figure).decode()}">'
    pairs = [(*d["person_ids"], *d["face_ids"], d["similarity"], d["excess"]) for d in report["duplicates"]]
    labels = [
        (m["person_id"], m["face_id"], m["own_similarity"], *m["nearer_to"].values(), m["similarity"])
        for m in report["mislabelled"]
    ]
    poor = [(p["person_id"], p["faces"], ", ".join(p["reasons"])) for p in report["poor_persons"]]
    name = html.escape(report["gallery"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Gallery {name}</title>'
        "<style>body{font:15px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
        "td,th{border-bottom:1px solid #ddd;padding:.3em .8em;text-align:left}img{max-width:100%}</style>"
        f"<h1>Gallery {name}</h1><pre>{html.escape(_summary(report))}</pre>{picture}"
        + _table("Probable duplicates", ("person", "person", "face", "face", "similarity", "excess"), pairs)
        + _table("Mislabelled faces", ("person", "face", "own", "nearer to", "its face", "similarity"), labels)
        + _table("Persons with poor photos only", ("person", "faces", "reasons"), poor)
        + "</html>\n"
    )


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row) + "</tr>" for row in rows)
    names = "".join(f"<th>{name}</th>" for name in head)
    return f"<h2>{title}: {len(rows)}</h2>" + (f"<table><tr>{names}</tr>{cells}</table>" if rows else "")
