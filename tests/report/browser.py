"""A page in headless Chromium: what its console says, and what a script finds in it."""

import html
import json
import re
import shutil
import subprocess

import pytest

needs_chromium = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="no Chromium (Debian: chromium)"
)
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


def run_chromium(path, profile, *options, real_time=False):
    """In real time the page is read as soon as it is loaded; else its clock jumps ahead."""
    clock = [] if real_time else ["--virtual-time-budget=20000"]
    return subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={profile}", *clock, "--dump-dom", *options, path.as_uri()],
        capture_output=True, text=True, check=True, timeout=240,
    )  # fmt: skip


def evaluate(page, folder, script, width=1400, dark=False, real_time=False):
    """What `script`, the body of an async function, returns in a page without its policy."""
    text, count = _POLICY.subn("", page.read_text())
    assert count == 1
    code = (
        f"<script>(async () => {{ {script} }})().catch((error) => ({{ error: String(error) }}))"
        ".then((found) => { document.title = 'FOUND' + JSON.stringify(found); });</script>"
    )
    copy = folder / "with_script.html"
    copy.write_text(text.replace("</body>", f"{code}</body>"))
    colours = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    size = f"--window-size={width},900"
    found = run_chromium(copy, folder / "profile", size, colours, real_time=real_time)
    (answer,) = re.findall(r"<title>FOUND(.*?)</title>", found.stdout, re.DOTALL)
    return json.loads(html.unescape(answer))
