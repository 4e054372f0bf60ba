"""The README's table is what the script prints."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("recipe_faults.py")


def test_table_in_the_readme() -> None:
    """Each fault of the recipe shows, none of ours does, and the README quotes it word for word."""
    # In a process of its own: what the recipe leaves open is none of this test's.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
    run = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, env=environment, check=True)  # noqa: S603 -- our own script

    assert f"```text\n{run.stdout}```" in (ROOT / "README.md").read_text(encoding="utf-8")
