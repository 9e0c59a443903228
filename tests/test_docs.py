"""The documentation is true: its Python runs, its links lead somewhere, and it knows every environment variable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r'\]\((?!\w+:)([^)\s]+)\)|<img src="(?!\w+:)([^"]+)"')
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPET = re.compile(r'^--8<-- "([\w./]+):(\w+)"$', re.MULTILINE)

CODE = [
    *ROOT.glob("*.py"),
    *(
        path
        for folder in ("iprm", "iprm_kernels", "csrc", "benchmarks", "examples", "release", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".c", ".cpp", ".cu", ".cuh", ".h"}
    ),
]
READ = re.compile(
    r'(?:environ(?:\.get)?|getenv|environment)[\[(]\s*"([A-Z][A-Z0-9_]+)"'
    r'|"([A-Z][A-Z0-9_]+)" (?:not )?in os\.environ'
    r'|(?<!\()"(IPRM_[A-Z0-9_]+)"(?!:)'  # a name that is passed on; as a key, or first of a pair, it is a macro
)
ANOTHERS = {"PATH", "PYTHONPATH"}
"""Read only to be handed to a process."""


def text_of(page: Path) -> str:
    """A page with its snippets of other pages."""

    def section(match: re.Match) -> str:
        path, name = match.groups()
        _, found = (ROOT / path).read_text(encoding="utf-8").split(f"--8<-- [start:{name}] -->", 1)
        return found.split(f"<!-- --8<-- [end:{name}]", 1)[0]

    return SNIPPET.sub(section, page.read_text(encoding="utf-8"))


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def anchors(page: Path) -> set[str]:
    """Of the headings, as they are named on GitHub and, by default, on the site."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md", "docs/migration.md"])
def test_python_blocks_run(page, tmp_path, monkeypatch):
    """One after another in one namespace, as they would be pasted."""
    blocks = [code for language, code in FENCE.findall(text_of(ROOT / page)) if language == "python"]
    assert blocks
    if any("iprm.attention" in block for block in blocks):
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace = {"__name__": "pasted"}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
    if page != "docs/migration.md":
        assert namespace["result"].shape == (2, 64)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page):
    broken = []
    for link in (link or image for link, image in LINK.findall(without_code(text_of(page)))):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def variables_read() -> set[str]:
    found = (match for path in CODE for match in READ.findall(path.read_text(encoding="utf-8")))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return {name for names in found for name in names if name} | set(re.findall(r"^(\w+) \?=", makefile, re.MULTILINE))


def variables_documented() -> set[str]:
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "docs/environment.md").read_text(encoding="utf-8"), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_variable_is_documented():
    assert variables_read() - ANOTHERS - variables_documented() == set()


def test_every_documented_variable_is_in_the_code():
    """Read here, or by torch, OpenMP or Triton where a file of ours says so."""
    words = {word for path in [*CODE, ROOT / "Makefile"] if path != Path(__file__) for word in
             re.findall(r"\b[A-Z][A-Z0-9_]+\b", path.read_text(encoding="utf-8"))}  # fmt: skip
    documented = variables_documented()
    assert len(documented) > 20
    assert documented - words == set()
