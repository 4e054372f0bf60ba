"""The documentation says what the code says."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fastapi_httpx_pool import FamilyNotInstalled

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastapi_httpx_pool"
DOCS = ROOT / "docs"
HOW_TO = sorted((DOCS / "how-to").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md")), *HOW_TO]

HEADINGS = ["What you get", "Do it", "Check it", "Settings", "When it goes wrong", "See also"]

STEP_IN_CODE = re.compile(r"Step (\d+) of a request: (.+)\.")
STEP_ON_PAGE = re.compile(r"^## Step (\d+): (.+)\n\n`(.+)`$", re.MULTILINE)
INCLUDED = re.compile(r"^<!-- file: ([^\n]+) -->\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _without_code(_text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _steps_in_code() -> list[tuple[int, str, str]]:
    steps = []
    for path in PACKAGE.rglob("*.py"):
        first_line = (ast.get_docstring(ast.parse(_text(path))) or "").partition("\n")[0]
        if first_line.startswith("Step "):
            match = STEP_IN_CODE.fullmatch(first_line)
            assert match, f"{path.name}: {first_line}"
            steps.append((int(match[1]), match[2], path.relative_to(ROOT).as_posix()))
    return sorted(steps)


def test_journey() -> None:
    """The page lists the ten steps that the modules' docstrings begin with, in order."""
    on_page = [(int(number), text, module) for number, text, module in STEP_ON_PAGE.findall(_text(DOCS / "journey.md"))]

    assert on_page == _steps_in_code()
    assert [number for number, _, _ in on_page] == list(range(1, 11))


def test_reference() -> None:
    """The reference is what the docstrings say now."""
    script = ROOT / "scripts" / "reference.py"
    run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_how_to_headings(page: Path) -> None:
    """All how-to pages have the same headings in the same order."""
    assert re.findall(r"^## (.+)$", _without_code(_text(page)), re.MULTILINE) == HEADINGS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_included_files(page: Path) -> None:
    """A block that shows a file shows all of it, as it is."""
    text = _text(page)
    included = INCLUDED.findall(text)

    assert len(included) == text.count("<!-- file: ")
    for name, block in included:
        assert block == _text(ROOT / name), f"{page.name} shows another {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links(page: Path) -> None:
    """Links between the pages lead to a file and a heading that exist."""
    for link in LINK.findall(_without_code(_text(page))):
        if not link.startswith("https://"):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), link
            assert not anchor or anchor in _anchors(target), link


def test_every_page_is_reached() -> None:
    """The index links to every other page."""
    linked = {(DOCS / link).resolve() for link in LINK.findall(_text(DOCS / "index.md"))}

    assert set(PAGES) - linked == {DOCS / "index.md", ROOT / "CHANGELOG.md"}


def test_missing_family() -> None:
    """The page on installing quotes the error that it cannot provoke where both families are installed."""
    quoted = " ".join(_text(DOCS / "how-to" / "install.md").split())

    assert f"FamilyNotInstalled: {FamilyNotInstalled('httpx2')}" in quoted


def test_changelog() -> None:
    """The newest section of the changelog is that of the package's version."""
    version = tomllib.loads(_text(ROOT / "pyproject.toml"))["project"]["version"]

    assert re.findall(r"^## \[(.+)\] - ", _text(ROOT / "CHANGELOG.md"), re.MULTILINE)[0] == version
