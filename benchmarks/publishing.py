"""From the results of a comparison to the table and the picture in the documents. Pure but for the last function."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
DOCUMENT, PICTURE = ROOT / "docs" / "performance.md", ROOT / "docs" / "comparison.svg"
BEGIN, END = "<!-- comparison: written by benchmarks/compare.py -->", "<!-- end of comparison -->"
TRACKS = {"documented": "as documented (torch eager, fp32)", "tuned": "our best torch kernel inside (inductor, bf16)"}
OURS = "batchrec"
NAMES = {
    OURS: "batchrec",
    "raydata": "Ray Data",
    "raydata_fused": "Ray Data, stages fused",
    "dataloader": "DataLoader",
    "daft": "Daft",
    "spark": "Spark",
}
_BAR, _GAP, _LEFT, _WIDTH = 18, 6, 170, 720
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600 }
  .ours { fill: #1a7f37 } .peer { fill: #8c959f }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .ours { fill: #3fb950 } .peer { fill: #6e7681 } }
"""

Results = dict[str, Any]


def seconds_of(results: Results, track: str) -> dict[str, float]:
    """Return the median seconds of each program on a track, of the rounds in which it did all its work."""
    of_track = [run for run in results["runs"] if run["track"] == track]
    done = {run["program"]: [seconds for seconds in run["seconds"] if seconds] for run in of_track}
    return {program: statistics.median(seconds) for program, seconds in done.items() if seconds}


def ratios_of(results: Results, track: str) -> dict[str, float]:
    """Return our seconds over theirs, the median of what each round gave."""
    runs = {run["program"]: run["seconds"] for run in results["runs"] if run["track"] == track}
    if OURS not in runs:
        return {}
    ours = runs.pop(OURS)
    pairs = {peer: [a / b for a, b in zip(ours, theirs, strict=True) if a and b] for peer, theirs in runs.items()}
    return {peer: statistics.median(ratios) for peer, ratios in pairs.items() if ratios}


def table(results: Results) -> str:
    """Return a comparison as Markdown."""
    rounds = max(len(run["seconds"]) for run in results["runs"])
    days = " and ".join(dict.fromkeys(date[:10] for date in results["date"].split(", ")))
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    head = ["program", *(f"{title} | ours / theirs | same top-1" for title in TRACKS.values())]
    lines = [
        f"**{results['model']}, {results['images']:,} images**, {days}, {results['machine']}; "
        f"median of {rounds} {'round' if rounds == 1 else 'rounds'}; peers: {versions}.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * (1 + 3 * len(TRACKS))}",
    ]
    programs = dict.fromkeys(run["program"] for run in results["runs"])
    return "\n".join([*lines, *(_line(results, program) for program in programs)])


def _line(results: Results, program: str) -> str:
    cells = [NAMES.get(program, program)]
    for track in TRACKS:
        seconds, ratios = seconds_of(results, track), ratios_of(results, track)
        mine = [run for run in results["runs"] if (run["program"], run["track"]) == (program, track)]
        if program not in seconds:
            cells += ["failed" if mine else "", "", ""]
            continue
        ratio = f"{ratios[program]:.2f}" if program in ratios else ""
        cells += [f"{seconds[program]:.1f} s", ratio, f"{100 * mine[0]['agreement']:.2f} %"]
    return f"| {' | '.join(cells)} |"


def picture(results: Results) -> str:
    """Return the seconds of a comparison as bars, an SVG that can be read on light and dark pages."""
    tracks = [(track, seconds_of(results, track)) for track in TRACKS]
    longest = max(max(seconds.values(), default=1.0) for _, seconds in tracks)
    shapes, y = [], 20
    for track, seconds in tracks:
        shapes.append(f'<text class="title" x="0" y="{y}">{escape(TRACKS[track])}</text>')
        y += 10
        for program, value in sorted(seconds.items(), key=lambda item: item[1]):
            shapes += _bar(program, value, y, (_WIDTH - _LEFT - 70) * value / longest)
            y += _BAR + _GAP
        y += 28
    title = f"Seconds for {results['images']:,} images, {results['model']}, start-up included"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n" + "\n".join(shapes) + "\n</svg>\n"
    )


def _bar(program: str, seconds: float, y: int, width: float) -> list[str]:
    kind, middle = ("ours" if program == OURS else "peer"), y + _BAR - 5
    return [
        f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end">{escape(NAMES.get(program, program))}</text>',
        f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="3"/>',
        f'<text x="{_LEFT + width + 6:.1f}" y="{middle}">{seconds:.1f} s</text>',
    ]


def joined(kept: Results, found: Results) -> Results:
    """Return the rounds of two comparisons as those of one, with the date and commit of both.

    Raises:
        ValueError: They are of different machines, versions, work or programs.
    """
    for name in ("model", "images", "machine", "versions"):
        if kept[name] != found[name]:
            raise ValueError(f"rounds are of one {name}, and these are of {kept[name]} and {found[name]}")
    before, after = ([(run["program"], run["track"]) for run in each["runs"]] for each in (kept, found))
    if before != after:
        raise ValueError(f"rounds are of the same programs in the same order, and these are of {before} and {after}")
    runs = [_both(old, new) for old, new in zip(kept["runs"], found["runs"], strict=True)]
    both_say = {name: ", ".join(dict.fromkeys([*kept[name].split(", "), found[name]])) for name in ("date", "commit")}
    return {**found, **both_say, "runs": runs}


def _both(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Add the rounds of a program; its agreement is that of the last in which it did its work."""
    latest = new if any(new["seconds"]) else old
    return {**latest, "seconds": [*old["seconds"], *new["seconds"]]}


def block(all_results: list[Results]) -> str:
    """Return what stands between the markers of the document."""
    largest = all_results[0]
    alt = f"Seconds of whole jobs over {largest['images']:,} images, {largest['model']}"
    return "\n\n".join([BEGIN, f"![{alt}](comparison.svg)", *map(table, all_results), END])


def read_results(folder: Path = RESULTS) -> list[Results]:
    """Return the comparisons that are kept, ResNet-18 first, then the larger."""
    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted(found, key=lambda each: (each["model"] != "resnet18", each["model"], -each["images"]))


def publish() -> None:
    """Write table and picture of the comparisons that are kept."""
    found = read_results()
    PICTURE.write_text(picture(found[0]))
    text = DOCUMENT.read_text()
    DOCUMENT.write_text(re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: block(found), text, flags=re.DOTALL))


if __name__ == "__main__":
    publish()
