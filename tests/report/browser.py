"""A real headless chromium for tests: what it renders, what it says on its console, what it tries to load."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# The browser asks its maker for updates and accounts whatever page it shows.
OWN_HOSTS = ("google.com", "googleapis.com", "gstatic.com")


def find_chromium() -> str:
    """The browser; in CI its absence is a failure, elsewhere a skip with its reason."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no chromium in CI; install Debian's package chromium")
        pytest.skip("no chromium on this machine (Debian's package chromium)")
    return found


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What a visit gave: the rendered DOM, console messages, hosts asked for, and the log of the network."""

    dom: str
    console: list[str]
    hosts: set[str]


def visit(path: Path, work: Path, *flags: str) -> Visit:
    """Open a file and dump its DOM.

    Args:
        path: an HTML file.
        work: an empty folder for the profile and the logs.
        flags: further flags.
    """
    work.mkdir(parents=True)
    net_log = work / "net.json"
    command = [find_chromium(), *FLAGS, *flags, f"--user-data-dir={work / 'profile'}", f"--log-net-log={net_log}"]
    done = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    urls = re.findall(r'"url":"(https?://[^"]*)"', net_log.read_text(errors="replace"))
    hosts = {urlsplit(url).hostname or "" for url in urls}
    return Visit(
        dom=done.stdout,
        console=[line for line in done.stderr.splitlines() if "CONSOLE" in line],
        hosts={host for host in hosts if not host.endswith(OWN_HOSTS)},
    )


def screenshot(path: Path, work: Path, image: Path, width: int, height: int, *flags: str) -> None:
    """Write a PNG of a page."""
    work.mkdir(parents=True)
    command = [find_chromium(), *FLAGS, *flags, f"--user-data-dir={work / 'profile'}"]
    command += [f"--window-size={width},{height}", f"--screenshot={image}", path.as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)


PROBE = """<!doctype html><body><iframe id="page" src="%s" style="width:%dpx;height:800px;border:0"></iframe>
<pre id="found">waiting</pre><script>
const frame = document.getElementById('page');
frame.onload = () => {
  const page = frame.contentDocument;
  const touching = {};
  for (const svg of page.querySelectorAll('svg')) {
    const texts = [...svg.querySelectorAll('text')].filter(t => t.textContent.trim());
    const boxes = texts.map(t => [t.textContent, t.getBoundingClientRect()]);
    const found = [];
    boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
      const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
      const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
      if (wide > 1 && high > 0.25 * Math.min(p.height, q.height)) found.push([a, b]);
    }));
    touching[svg.getAttribute('aria-label')] = found;
  }
  const clipped = [...page.querySelectorAll('svg')].flatMap(svg => {
    const edge = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text')].filter(t => {
      const box = t.getBoundingClientRect();
      return box.left < edge.left - 1 || box.right > edge.right + 1;
    }).map(t => t.textContent);
  });
  document.getElementById('found').textContent = JSON.stringify({
    width: page.documentElement.scrollWidth, sections: [...page.querySelectorAll('section')].map(s => s.id),
    scripts: page.scripts.length, touching, clipped,
  });
};
</script>"""


def measure(path: Path, work: Path, width: int) -> dict[str, object]:
    """Measure a page laid out at some width, through a page of our own that holds it in a frame.

    Returns:
        Its scroll width, section ids, number of scripts, and per figure the texts that touch or are cut off.
    """
    work.mkdir(parents=True)
    probe = work / "probe.html"
    probe.write_text(PROBE % (path.as_uri(), width))
    found = visit(probe, work / "visit", "--allow-file-access-from-files", "--virtual-time-budget=20000")
    match = re.search(r'<pre id="found">(.*?)</pre>', found.dom, re.DOTALL)
    assert match is not None
    text = match.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(text)
