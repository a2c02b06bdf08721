"""splitcheck over the real xenstored, event channels and grants of Xen 4.17: two domUs that are each other's ends say
there, line by line, what they say on pyvmm."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest

from pyvmm import images
from tests.guests.test_devices_split import KINDS, Pair
from tests.oracle import xen

pytestmark = [pytest.mark.oracle, pytest.mark.slow, pytest.mark.debian("xen-utils-4.17", "xenstore-utils")]

CASES = (  # kind, front end's and back end's part of the command line
    ("net", "blank split=42", "blank split=60 split-channels"),
    ("blk", "", "sectors=520 indirect=32"),
)
TOOLS = ("/usr/bin/xenstore-write", "/usr/bin/xenstore-chmod")
PAIR = """
xl create -q -p /guests/f{n}.cfg; xl create -q -p /guests/b{n}.cfg
F=/local/domain/{front}/device/{kind}/0; B=/local/domain/{back}/backend/{kind}/{front}/0
xenstore-write $F/backend $B $F/backend-id {back} $F/state 1 $F/mac 00:16:3e:00:00:02
xenstore-write $B/frontend $F $B/frontend-id {front} $B/state 1 $B/online 1 $B/mode w
xenstore-chmod -r $F n{front} r{back}; xenstore-chmod -r $B n{back} r{front}
xl unpause b{n}; xl unpause f{n}
i=0
while [ $i -lt 150 ]; do
  xl domid f{n} >/dev/null 2>&1 || xl domid b{n} >/dev/null 2>&1 || break
  sleep 0.2; i=$((i+1))
done
for g in f{n} b{n}; do echo "ORACLE begin $g"; cat /var/log/xen/console/guest-$g.log; echo; echo "ORACLE end $g"; done
"""


def options(kind: str, front: str, back: str, peer: int) -> tuple[str, str]:
    """Both command lines, as `Pair` has them."""
    ip = "ip=10.0.0.2" if kind == "net" else ""
    return f"role={kind}-front rounds=2 {ip} {front}", f"role={kind}-back peer={peer} way=xs rounds=2 {back}"


def on_xen() -> list[xen.Outcome]:
    """The consoles of all guests, front end and back end of each case."""
    for tool in TOOLS:
        if not Path(tool).exists():
            raise xen.Missing(f"{tool} (xenstore-utils)")
    kernel, initrd = xen.dom0_initrd()

    def run() -> list[xen.Outcome]:
        files = {"guests/image": images.path("splitcheck").read_bytes()}
        for tool in TOOLS:
            files |= {path[1:]: Path(path).read_bytes() for path in (tool, *xen.libraries(tool))}
        script = xen.INIT.split("for c in")[0].replace("PATH=/bin:", "PATH=/bin:/usr/bin:")
        names = []
        for n, (kind, front, back) in enumerate(CASES):
            domid = 2 * n + 1
            script += PAIR.format(n=n, front=domid, back=domid + 1, kind=KINDS[kind])
            for name, line in zip((f"f{n}", f"b{n}"), options(kind, front, back, domid), strict=True):
                names.append(name)
                config = f'name="{name}"\ntype="pv"\nmemory="32"\nkernel="/guests/image"\nextra="{line}"\n'
                files[f"guests/{name}.cfg"] = config.encode()
        files["init"] = (script + '\necho "ORACLE done"\npoweroff -f\n').encode()
        with tempfile.NamedTemporaryFile(suffix=".cpio") as both:
            both.write(initrd.read_bytes() + xen.archive(files))
            both.flush()
            parts = f"{kernel} console=hvc0 rdinit=/init quiet loglevel=4 nokaslr,{both.name}"
            lines, _ = xen.boot(parts, xen.HALT + "|ORACLE done", 1024, 1, "dom0_mem=400M,max:400M", 240)
        crashed = any(re.search(xen.CRASH, line) for line in lines)
        return [xen.consoles(lines, name, crashed) for name in names]

    return xen.cached(["splitcheck", xen.image_hash(images.path("splitcheck")), PAIR, CASES, str(kernel)], run)


def test_both_ends_on_the_real_xen() -> None:
    """The same handshakes, counts and digests; only the domains' numbers may differ."""
    try:
        outcomes = on_xen()
    except xen.Missing as missing:
        pytest.skip(f"needs {missing}")
    assert all(outcome.ended and not outcome.crashed for outcome in outcomes)
    for n, (kind, front, back) in enumerate(CASES):
        pair = Pair(kind, "xs", front, back)
        assert "splitcheck: passed" in pair.front_text
        for text, outcome in zip((pair.front_text, pair.back_text), outcomes[2 * n : 2 * n + 2], strict=True):
            ours = [re.sub(r"domain \d+", "domain N", line) for line in text.splitlines()]
            theirs = [re.sub(r"domain \d+", "domain N", line) for line in outcome.lines]
            assert theirs == ours
