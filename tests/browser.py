"""A headless browser for tests: opens a page, acts on it, and returns what it says."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
).split()


def ask(page: Path, script: str, *, width: int = 1200, wait: int = 8000) -> Any:
    """Open a page, run `async () => {script}` in it, and return its value.

    The script runs after the page's own; it may use `move(x, y)`, which sends the
    pointer there as a user's hand would, and `sleep(ms)`.
    """
    assert BROWSER is not None
    text = page.read_text(encoding="utf-8")
    asked = text.replace("</body>", f"<script>{_HELP % script}</script></body>")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        copy.write_text(asked, encoding="utf-8")
        arguments = [BROWSER, *_FLAGS, f"--user-data-dir={folder}/user", "--dump-dom"]
        arguments += [f"--virtual-time-budget={wait}", f"--window-size={width},900"]
        run = subprocess.run(
            [*arguments, copy.as_uri()], capture_output=True, text=True, timeout=120
        )
    found = re.search(r'<pre id="answer">(.*?)</pre>', run.stdout, flags=re.DOTALL)
    assert found is not None, run.stderr[-2000:]
    return json.loads(html.unescape(found.group(1)))


def shoot(page: Path, picture: Path, *, width: int = 1200, height: int = 1600) -> None:
    """Write a screenshot of a page."""
    assert BROWSER is not None
    with tempfile.TemporaryDirectory() as folder:
        arguments = [BROWSER, *_FLAGS, f"--user-data-dir={folder}"]
        arguments += [f"--screenshot={picture}", f"--window-size={width},{height}"]
        arguments += ["--virtual-time-budget=8000", page.as_uri()]
        subprocess.run(arguments, capture_output=True, check=True, timeout=120)


_HELP = """
const sleep = ms => new Promise(done => setTimeout(done, ms));
const move = async (x, y) => {
  const target = document.elementFromPoint(x, y);
  const where = {clientX: x, clientY: y, bubbles: true, view: window};
  for (const kind of ["mouseover", "mousemove"])
    target.dispatchEvent(new MouseEvent(kind, where));
  await sleep(300);
};
(async () => {
  let answer;
  try { await sleep(500); answer = await (async () => { %s })(); }
  catch (error) { answer = {error: String(error)}; }
  const place = document.createElement("pre");
  place.id = "answer";
  place.textContent = JSON.stringify(answer);
  document.body.append(place);
})();
"""
