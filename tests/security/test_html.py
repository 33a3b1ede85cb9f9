"""What comes from outside is text on the page of a report: no element, no attribute, no script, no address."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.records import LabelCount
from batchrec.redacting import shown
from batchrec.report.html import render_page
from batchrec.report.repeating import Making
from batchrec.report.summary import RunSummary

Cli = Callable[..., tuple[int, str, str]]

PAYLOADS = (
    "<script>document.title='pwned'</script>",
    '"><img src=x onerror="document.title=\'pwned\'">',
    "'><svg/onload=document.title='pwned'>",
    "javascript:document.title='pwned'",
    "</title><script>document.title='pwned'</script>",
    "</style><script>document.title='pwned'</script>",
    "<!--<script>",
    "-->]]><base href=http://evil.example/>",
    "</code></pre></main><iframe src=https://evil.example>",
    "<meta http-equiv=refresh content=0;url=http://evil.example>",
    "{{7*7}}{% raw %}{# ${7*7}",
    "&lt;b&gt; &amp;#x3c;",
    "; width: 9999px; background: url(http://evil.example/x)",
    "nul\0bidi\u202egpj.exe\u2066isolate\u200bzero\ufeff\x1b[31m\u2028\r\nend",
)
ALL = " | ".join(PAYLOADS)
#: What one line of a file, or one name of a folder, can hold of them.
LINES = [payload.replace("\r\n", "").replace("\u2028", "").replace("\0", "") for payload in PAYLOADS]
NAME = "<img src=x onerror=document.title='pwned'>\u202e{{7*7}}"

ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "footer", "div", "span"),
    *("p", "b", "i", "small", "bdi", "code", "pre", "h1", "h2", "h3", "ul", "li", "dl", "dt", "dd"),
    *("table", "thead", "tbody", "tr", "th", "td", "details", "summary"),
}
ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "class", "style"}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """A page as a browser would take it apart."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []
        self.others: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    def handle_pi(self, data: str) -> None:
        self.others.append(data)

    def unknown_decl(self, data: str) -> None:
        self.others.append(data)

    def of(self, element: str, attribute: str) -> list[str | None]:
        return [value for tag, name, value in self.attributes if (tag, name) == (element, attribute)]


def faults(page: str) -> list[str]:
    """What on a page is more than text in our own elements."""
    found = Page(page)
    strange = [tag for tag in found.elements if tag not in ELEMENTS] + found.others
    strange += [f"{tag} {name}={value}" for tag, name, value in found.attributes if name not in ATTRIBUTES]
    strange += [
        f"{tag} {name}={value}"
        for tag, name, value in found.attributes
        if (name == "style" and not re.fullmatch(r"width: \d+(\.\d+)?(e-\d+)?%", value or ""))
        or (name == "class" and not re.fullmatch(r"[a-z]+", value or ""))
        or (name in ("content", "http-equiv", "name", "charset") and tag != "meta")
    ]
    hidden = [each for each in page if each != "\n" and unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    style = page.partition("<style>")[2].partition("</style>")[0]
    outside = re.findall(r"url\(|@import|https?:", style)
    return strange + hidden + outside + [value for value in found.of("meta", "content") if "http" in (value or "")]


def says(page: str, text: str) -> bool:
    return shown(text) in "".join(Page(page).text)


def poisoned(value: Any) -> Any:
    """The same JSON with the payloads in every text and every key that anybody may choose."""
    if isinstance(value, dict):
        return {key: poisoned(each) for key, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each) for each in value]
    return value + ALL if isinstance(value, str) else value


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, archive: Path) -> Path:
    """The output of a job whose folders, manifest, columns, URIs and labels all mean ill."""
    import batchrec

    folder = tmp_path_factory.mktemp("hostile") / NAME
    folder.mkdir()
    good = [row["uri"] for row in pq.read_table(archive / "manifest.parquet").to_pylist() if row["broken"] is None]
    for number in range(10):
        shutil.copy(archive / good[number], folder / f"{number}.jpg")
    (folder / "page.jpg").write_bytes(f"<html>{ALL}".encode())
    uris = [f"{number}.jpg" for number in range(10)] + ["page.jpg", *PAYLOADS, f"gone/{LINES[1]}"]
    pq.write_table(pa.table({"uri": uris, NAME: uris}), folder / f"{NAME}.parquet")
    (folder / "labels.txt").write_text("\n".join(LINES[:10]))
    out = folder.parent / f"out{NAME}"
    batchrec.submit(
        str(folder / f"{NAME}.parquet"),
        output=str(out),
        labels=str(folder / "labels.txt"),
        passthrough=(NAME,),
        pool="inline",
        backend="torch-eager",
        device="cpu",
        max_failure_rate=1.0,
    )
    return out


@pytest.fixture(scope="module")
def page(hostile: Path) -> str:
    """The page of such a job, everything else that its folder says poisoned too."""
    summary = RunSummary.from_json(_poisoned_report(hostile))
    identity = poisoned(json.loads((hostile / "_batchrec" / "OUTPUT.json").read_text())["identity"])
    labels = [LabelCount(payload, 1, 0.5) for payload in (*PAYLOADS, ALL)]
    making = Making.of(None, identity, {"batchrec": ALL, "python": ALL})
    return render_page(summary, labels, Making(ALL, making.facts), notes=[ALL])


def _poisoned_report(out: Path) -> dict[str, Any]:
    report = json.loads((out / "report.json").read_text())
    example = {"count": 1, "example_uri": ALL, "detail": ALL}
    short = [{"count": 1, "example_uri": payload, "detail": payload} for payload in PAYLOADS]
    errors = dict(zip((*PAYLOADS, ALL), (*short, example), strict=True))
    return {**poisoned(report), "errors": {**report["errors"], **errors}}


def test_the_search_finds_what_it_looks_for(page: str) -> None:
    assert faults(page) == []
    for attack in (
        *(payload for payload in PAYLOADS if re.search(r"<[a-z]+[ >/]", payload) and "<!--" not in payload),
        PAYLOADS[-1],
        "<!--x-->",
        '<a href="javascript:0">',
        '<i style="width: 1%; background: url(x)">',
        "<p onclick=0>",
        "<link>",
    ):
        assert faults(page.replace("<h1>", f"{attack}<h1>")), attack


def test_a_hostile_job_gives_a_page_of_text(hostile: Path, run_cli: Cli, tmp_path: Path) -> None:
    code, _, err = run_cli("report", hostile, "--html", tmp_path / "r.html")
    assert code == 0, err
    page = (tmp_path / "r.html").read_text()
    assert faults(page) == []
    assert says(page, str(hostile))
    assert says(page, NAME)
    labels = [label for label in pq.read_table(hostile / "predictions")["label"].to_pylist() if label]
    assert labels
    assert [label for label in labels if not says(page, label)] == []
    assert "49" not in page.partition("Labels</h2>")[2].partition("<section>")[0]


def test_whoever_writes_to_the_folder_writes_text_alone(hostile: Path, run_cli: Cli, tmp_path: Path) -> None:
    out = Path(shutil.copytree(hostile, tmp_path / "out"))
    (out / "report.json").write_text(json.dumps(_poisoned_report(out)))
    for path in (out / "_batchrec" / "OUTPUT.json", next(out.glob("_batchrec/*/spec.json"))):
        record = json.loads(path.read_text())
        choices = ("decoding", "device", "backend", "pool", "precision", "embeddings")
        spec = {key: each if key in choices else poisoned(each) for key, each in record.get("spec", {}).items()}
        path.write_text(json.dumps({**record, "identity": poisoned(record["identity"]), "spec": spec}))
    code, _, err = run_cli("report", out, "--html", tmp_path / "r.html")
    assert code == 0, err
    page = (tmp_path / "r.html").read_text()
    assert faults(page) == []
    assert page.count(html.escape(PAYLOADS[0], quote=False).replace("'", "&#39;")) > 10


def test_every_payload_is_read_as_it_was_written(page: str) -> None:
    assert [payload for payload in (*PAYLOADS, ALL) if not says(page, payload)] == []
    assert says(page, "{{7*7}}")


def test_the_policy_lets_a_browser_load_and_run_nothing(page: str) -> None:
    found = Page(page)
    assert found.of("meta", "http-equiv") == ["Content-Security-Policy"]
    assert POLICY in found.of("meta", "content")
    assert page.index(POLICY) < page.index("<title>") < page.index("<style>")
    assert not {"script", "link", "img", "svg", "a", "form", "iframe", "object", "base"} & set(found.elements)


def test_no_secret_of_a_folder_is_on_the_page(page: str, hostile: Path) -> None:
    report = _poisoned_report(hostile)
    report["model"] = report["output"] = "https://user:canary@host/a?X-Amz-Signature=canary"
    secret = [("versions", "s3://AKIAABCDEFGHIJKLMNOP@b/?token=canary")]
    found = render_page(RunSummary.from_json(report), [LabelCount("?token=canary", 1, 1)], Making("", tuple(secret)))
    assert "canary" not in found
    assert "AKIA" not in found


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
class TestInChromium:
    """A script that ran would have changed the title."""

    def test_the_file_keeps_its_title(self, page: str, tmp_path: Path) -> None:
        (tmp_path / "r.html").write_text(page)
        dom = dom_of(tmp_path / "r.html")
        assert Page(dom).elements == Page(page).elements
        assert title_of(dom) == title_of(page)

    def test_no_script_runs_without_the_policy_either_and_no_phone_scrolls_sideways(
        self, page: str, tmp_path: Path
    ) -> None:
        bare = page.replace(POLICY, "")
        attacked = bare.replace("<h1>", f'<h1><b style="display: block; width: 900px">x</b>{PAYLOADS[0]}')
        frames = "".join(
            f'<iframe width="{width}" height="800" srcdoc="{html.escape(each)}"></iframe>'
            for each, width in ((page, 360), (bare, 360), (page, 1200), (attacked, 360))
        )
        (tmp_path / "frames.html").write_text(f"<!DOCTYPE html><meta charset=utf-8>{MEASURE}<body>{frames}")
        dom = dom_of(tmp_path / "frames.html")
        *harmless, attack = json.loads(html.unescape(dom.partition("<body>")[2].partition("</body>")[0]))
        assert harmless == [[title_of(page), False, 0]] * 3
        assert attack == ["pwned", True, 1]  # the search finds what it looks for


#: Says of each page in a frame: its title, whether it scrolls sideways, how many strange elements it has.
MEASURE = """<script>onload = () => {
    const pages = [...document.querySelectorAll("iframe")].map(frame => frame.contentDocument);
    document.body.innerText = JSON.stringify(pages.map(it => [
        it.title,
        it.documentElement.scrollWidth > it.documentElement.clientWidth,
        it.querySelectorAll("script, img, iframe, svg, base").length,
    ]));
}</script>"""


def dom_of(path: Path) -> str:
    """A page as Chromium has it once it is loaded and its scripts have run."""
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={path.parent / 'profile'}"]
    command = [CHROMIUM, *flags, "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def title_of(page: str) -> str:
    """A title as scripts see it, in one line."""
    return " ".join(html.unescape(page.partition("<title>")[2].partition("</title>")[0]).split())
