"""dom0's configuration parsers in C against Python's: of the same files the same meaning, or the same mistake."""

from __future__ import annotations

import functools
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.errors import ConfigError
from pyvmm.toolstack.config import GuestConfig, parse
from pyvmm.toolstack.devices import Vbd

from .dom0_native import Dom0

BASE = 'name = "g"\nkernel = "k"\n'
JSON = '{"name": "g", "kernel": "k"%s}'


@functools.cache
def dom0() -> Dom0:
    """A dom0 to parse with."""
    return Dom0({})


def described(guest: GuestConfig, files: bool) -> str:
    """What the C side's `config` prints, of what Python read. `files`: disks are of chaos's type "file", which Python
    does not keep apart."""
    a = guest.actions
    lines = [
        f"name {guest.name}",
        f"kernel {guest.kernel}",
        f"ramdisk {guest.ramdisk or ''}",
        f"cmdline {guest.cmdline}",
        f"memory {guest.memory >> 10}",
        f"maxmem {guest.maxmem >> 10}",
        f"vcpus {guest.vcpus}",
        f"maxvcpus {guest.maxvcpus}",
        "on " + " ".join(action.value for action in (a.poweroff, a.reboot, a.crash, a.watchdog)),
        f"paused {int(guest.paused)}",
        f"method {guest.design or ''}",
        f"uuid {guest.uuid.hex if guest.uuid else ''}",
    ]
    for d in guest.devices:
        if isinstance(d, Vbd):
            flags = (d.cdrom, "cdrom"), (d.format == "raw", "raw"), (files, "file"), (not d.discard, "no-discard")
            words = "".join(f" {word}" for on, word in flags if on)
            lines.append(f"vbd {d.devid} {d.vdev} {'r' if d.readonly else 'w'}{words} {d.target}")
        else:
            lines.append(f"vif {d.devid} {d.mac or ''} {d.ip or '0.0.0.0'} {d.bridge} {d.script}")
    return "\n".join(lines) + "\n"


def python_says(text: str) -> tuple[bool, str]:
    """The oracle's answer."""
    try:
        return True, described(parse(text, "f.cfg").guest, '"file"' in text)
    except ConfigError as error:
        return False, str(error)


def c_says(text: str) -> tuple[bool, str]:
    """dom0's."""
    return dom0().config("f.cfg", text.encode())


GOOD = [
    BASE,
    'name="a";kernel="b";memory=512;maxmem=0x400;vcpus=2;maxvcpus=04',
    "name = 'web'\n# words\nkernel = \"/boot/vmlinuz\" # more\n"
    "ramdisk = '/boot/initrd'\nroot='/dev/xvda1 ro'\nextra = \"console=hvc0\"\nextra += ' quiet'",
    BASE + "cmdline = 'all'\nroot = 'x'\n",
    BASE + "memory = '64'\nmemory = 16\nvcpus = ' 3 '\n",
    BASE + "maxmem = 77\nmaxvcpus = 5\nunknown = [ [1,2], 'x', ]\n",
    BASE + 'uuid = "7c2f9a4e-5b0d-4d52-9a41-5f0c6d1f7a10"\non_poweroff = "preserve"\non_crash = "coredump-restart"\n',
    BASE + 'uuid = "urn:uuid:{7C2F9A4E5B0D4D529A415F0C6D1F7A10}"\non_reboot = "destroy"\non_watchdog="restart"',
    BASE + "vif = [ 'mac=00:16:3E:74:3d:76,bridge=br0,ip=10.0.0.2', '',\n"
    " 'script=/x/y,devid=7,rate=10Mb/s@20ms,mtu=9000,type=ioemu,trusted']",
    BASE + "disk = ['/images/web.img,raw,xvda,rw', "
    "'format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/images/a,b.iso']",
    BASE + "disk = ['phy:vg/one,xvdb1,w', 'file:/x,sda,r', 'qcow2:/y,hda:cdrom,r', "
    "',,hdd,,cdrom', '/z,,d20p3,no-discard,untrusted']",
    BASE
    + "disk = ['/a,raw,51712,rw', '/b,qcow2,0xca10,ro', '/c,vdev=xvdzz200,script=x,direct-io-safe,backendtype=phy']",
    BASE + "disk = []\nvif = []\ndisk += ['/a,,xvda']\n",
    BASE + r"extra = 'tab\t\x41\102 \" \\ \xe9'",
    BASE + "vcpus = 1;; memory = 4\r\n\n",
    JSON % "",
    JSON % ', "memory": 8, "vcpus": {"count": 2, "cpumap": "1"}, '
    '"address_size": 64, "paused": true, "cmdline": "a b", "ramdisk": "r"',
    JSON % ', "vifs": [{"ip": "10.0.0.2", "mac": "00:16:3e:0:0:1", "bridge": "xenbr"}, {}], '
    '"xen": {"pvh": false, "dev_method": "noxs"}',
    JSON % ', "vbds": [{"target": "/x", "type": "file", "vdev": "xvda", "access": "r"}]',
    JSON % ', "vbds": [{"target": "/x", "type": "phy", "vdev": "xvda", "access": "w"}, '
    '{"target": "y", "type": "phy", "vdev": "hdb"}]',
    JSON % ', "on_reboot": "restart", "memory": "0x20", "vcpus": null, '
    '"x": [1.5e3, -2, [], {}, "\\u00e9\\ud83d\\ude00\\n\\/"]',
    '\n  {"name": "\\u0041", \n"kernel": "k" }\n',
]
BAD = [
    "",
    "name",
    "name = ",
    "name = 'g'",
    "kernel = 'k'",
    "name = 'a/b'\nkernel='k'",
    "name = ['g']\nkernel='k'",
    "name = 'g'\nbootloader = 'pygrub'",
    BASE + "= 3",
    BASE + "x 3",
    BASE + "x = y",
    BASE + "x = 3 4",
    BASE + "x = 12ab",
    BASE + "x = 0x",
    BASE + "x = 'open",
    BASE + 'x = "open\nnext = 1',
    BASE + "x = $",
    BASE + r"x = '\q'",
    BASE + r"x = '\000'",
    BASE + "x = [1, 2",
    BASE + "x = [",
    BASE + "x = [1 2]",
    BASE + "x = [\n1,\n2\n3]",
    BASE + "x = " + "[" * 40,
    BASE + "x = 1\nx += [2]",
    BASE + "type = 'hvm'",
    BASE + "type = 'paravirtual'",
    BASE + "builder = 'hvm'",
    BASE + "memory = 'lots'",
    BASE + "memory = 0",
    BASE + "memory = 99999999999999999999999",
    BASE + "memory = 08",
    BASE + "memory = [1]",
    BASE + "memory = 32\nmaxmem = 16",
    BASE + "vcpus = 129",
    BASE + "vcpus = 4\nmaxvcpus = 2",
    BASE + "uuid = 'x'",
    BASE + "on_crash = 'explode'",
    BASE + "on_poweroff = ['destroy']",
    BASE + "extra = [1]",
    BASE + "vif = 'mac=x'",
    BASE + "vif = [[1]]",
    BASE + "vif = ['mac=x']",
    BASE + "vif = ['mac=01:00:00:00:00:00']",
    BASE + "vif = ['mac=00:16:3e:00:00:01,mac=00:16:3e:00:00:02']",
    BASE + "vif = ['devid=1', '']",
    BASE + "vif = ['devid=x']",
    BASE + "vif = ['mtu=3']",
    BASE + "vif = ['rate=fast']",
    BASE + "vif = ['bridge']",
    BASE + "vif = ['color=red']",
    BASE + "disk = 3",
    BASE + "disk = ['/a']",
    BASE + "disk = ['']",
    BASE + "disk = ['/a,raw,nope,rw']",
    BASE + "disk = ['/a,raw,hde,rw']",
    BASE + "disk = ['/a,raw,xvda,maybe']",
    BASE + "disk = ['/a,zip,xvda,rw']",
    BASE + "disk = ['/a,raw,xvda,rw,more']",
    BASE + "disk = [',raw,xvda,rw']",
    BASE + "disk = ['/a,raw,xvda', '/b,raw,xvda']",
    BASE + "disk = ['/a,raw,xvda,vdev=xvdb']",
    BASE + "disk = ['/a,raw,xvda,colour=red']",
    BASE + "disk = ['/a,raw,xvda,devtype=tape']",
    BASE + "disk = ['/a,raw,999999999,rw']",
    "{",
    "{}",
    '{"name"}',
    '{"name": }',
    '{"name": "g"',
    '{"name": "g",}',
    '{"name": "g", "kernel": "k"} x',
    '{"name": "g", "name": "h"}',
    '{"name": "g" "kernel": "k"}',
    '{"name": "g\nx"}',
    '{"name": "g\\q"}',
    '{"name": "g\\u12"}',
    '{"name": "open',
    '{"name": "\\u0000"}',
    '{"name": "\\ud800"}',
    '{"name": tru}',
    '{"name": truely}',
    '{"name": .5}',
    '{"name": ' + "[" * 40 + "}",
    '{"kernel": "k"}',
    '{"name": "g"}',
    '{"name": true, "kernel": "k"}',
    JSON % ', "memory": 1.5',
    JSON % ', "memory": -3',
    JSON % ', "memory": true',
    JSON % ', "vcpus": {"count": 0}',
    JSON % ', "vcpus": 1000',
    JSON % ', "address_size": 32',
    JSON % ', "address_size": 16',
    JSON % ', "vifs": {}',
    JSON % ', "vifs": [3]',
    JSON % ',\n "vifs": [{}, {"mac": "x"}]',
    JSON % ',\n "vbds": [{}]',
    JSON % ', "vbds": [{"target": "x"}]',
    JSON % ', "vbds": [{"target": "x", "vdev": "xvda"}, {"target": "y", "vdev": "xvda"}]',
    JSON % ', "vbds": [{"target": "x", "vdev": "xvda", "type": "tape"}]',
    JSON % ', "vbds": [{"target": "x", "vdev": "xvda", "access": "rw"}]',
    JSON % ', "paused": "perhaps"',
    JSON % ', "xen": 3',
    JSON % ', "xen": {"pvh": true}',
    JSON % ', "xen": {"dev_method": "telepathy"}',
    JSON % ', "on_crash": "explode"',
]


@pytest.mark.parametrize("text", GOOD)
def test_good_files_mean_the_same(text: str) -> None:
    good, meaning = python_says(text)
    assert good, meaning
    assert c_says(text) == (True, meaning)


@pytest.mark.parametrize("text", BAD)
def test_mistakes_are_told_in_the_same_words(text: str) -> None:
    good, message = python_says(text)
    assert not good
    assert c_says(text) == (False, message)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BASE + "vif = ['ip=10.0.0.2 10.0.0.3']", 'vif "ip=10.0.0.2 10.0.0.3": expected an IPv4 address like 10.0.0.2'),
        (BASE + f"extra = '{'x' * 300}'", "extra: expected at most 255 bytes"),
        (f"name = '{'n' * 64}'\nkernel = 'k'", "name: expected at most 63 bytes"),
        (BASE + "vif = [" + "''," * 9 + "]", "vif: expected at most 8 of them"),
        (BASE + "x = [" + "'y'," * 5000 + "]", "expected a smaller configuration"),
    ],
)
def test_what_only_dom0_refuses(text: str, said: str) -> None:
    assert python_says(text)[0]
    good, message = c_says(text)
    assert not good and said in message, message


def test_a_byte_that_is_no_text() -> None:
    assert dom0().config("f.cfg", b"name = 'g'\nx = '\xff'\n") == (
        False,
        "f.cfg:2: expected UTF-8 text, not the byte 0xff",
    )
    assert dom0().config("f.cfg", b"# \xed\xa0\x80\n")[1] == "f.cfg:1: expected UTF-8 text, not the byte 0xed"


OWN_LIMITS = re.compile(r"at most \d+ (bytes|of them)|smaller configuration|IPv4")
PIECES = sorted({piece for text in GOOD + BAD for piece in re.findall(r"\w+|\s+|[^\w\s]", text) if len(piece) < 30})


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_changed_files_fare_the_same(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(GOOD))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        to = min(len(text), at + data.draw(st.integers(0, 5)))
        text = text[:at] + data.draw(st.sampled_from(["", *PIECES])) + text[to:]
    if "\0" in text:
        return
    good, meaning = python_says(text)
    meaning = meaning.replace(" file ", " ")  # only guessed at there
    c = c_says(text)[0], c_says(text)[1].replace(" file ", " ")
    if c != (good, meaning) and not (not c[0] and OWN_LIMITS.search(c[1])):
        assert good is c[0] is False, (text, meaning, c)
        assert c[1].split(":")[:2] == meaning.split(":")[:2], (text, meaning, c)
