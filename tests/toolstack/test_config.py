"""Configuration files: what their syntaxes mean, and what is said of mistakes."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import ConfigError
from pyvmm.toolstack.config import Action, Actions, GuestConfig, load, read
from pyvmm.toolstack.config.jsonsyntax import parse as parse_json
from pyvmm.toolstack.config.settings import Value, to_number
from pyvmm.toolstack.config.xlsyntax import parse as parse_xl
from pyvmm.toolstack.devices import Vbd, Vif

MIB = 1 << 20
BASE = 'name = "g"\nkernel = "k"\n'


def guest(text: str, *, warnings: int = 0) -> GuestConfig:
    """The guest of `BASE` and some more lines."""
    loaded = read(BASE + text, "f.cfg")
    assert len(loaded.warnings) == warnings, loaded.warnings
    return loaded.guest


def mistake(text: str, *, base: str = BASE) -> str:
    """The one line that is said of a mistake, without the file."""
    with pytest.raises(ConfigError) as caught:
        read(base + text, "f.cfg")
    message = str(caught.value)
    assert "\n" not in message and message.startswith("f.cfg:"), message
    return message.removeprefix("f.cfg:")


# --- xl's syntax ---


def test_a_typical_file() -> None:
    text = """
    # A comment, and one line with several settings
    type = "pv"; name = 'web'; vcpus = 2
    kernel = "/boot/vmlinuz"   # behind a setting
    ramdisk = '/boot/initrd'
    memory = 512
    maxmem = 0x400
    maxvcpus = 04
    root = "/dev/xvda1 ro"
    extra = "console=hvc0"
    extra += " quiet"
    uuid = "7c2f9a4e-5b0d-4d52-9a41-5f0c6d1f7a10"
    vif = [ 'mac=00:16:3E:74:3d:76,bridge=br0,ip=10.0.0.2', "",
    ]
    disk = ['/images/web.img,raw,xvda,rw',
            'format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/images/a,b.iso' ]
    on_poweroff = "preserve"
    on_reboot = 'restart'
    on_crash = "destroy"
    """
    loaded = read(text, "web.cfg")
    assert loaded.warnings == ()
    assert loaded.guest == GuestConfig(
        name="web",
        kernel="/boot/vmlinuz",
        ramdisk="/boot/initrd",
        memory=512 * MIB,
        maxmem=1024 * MIB,
        vcpus=2,
        maxvcpus=4,
        cmdline="root=/dev/xvda1 ro console=hvc0 quiet",
        uuid=uuid.UUID("7c2f9a4e-5b0d-4d52-9a41-5f0c6d1f7a10"),
        actions=Actions(poweroff=Action.PRESERVE),
        devices=(
            Vbd(target="/images/web.img", vdev="xvda"),
            Vbd(target="/images/a,b.iso", vdev="hdc", readonly=True, cdrom=True),
            Vif(devid=0, mac="00:16:3e:74:3d:76", bridge="br0", ip="10.0.0.2"),
            Vif(devid=1),
        ),
        source="web.cfg",
    )


def test_defaults_are_xls() -> None:
    found = guest("")
    assert (found.memory, found.maxmem, found.vcpus, found.maxvcpus) == (32 * MIB, 32 * MIB, 1, 1)
    assert found.actions == Actions(Action.DESTROY, Action.RESTART, Action.DESTROY, Action.DESTROY)
    assert guest("maxmem = 64").memory == 64 * MIB
    assert guest("maxvcpus = 3").vcpus == 3
    assert guest('memory = "48"').memory == 48 * MIB  # xl reads a number in quotes, too
    assert guest("name = 5").name == "5"  # and a number where a string is wanted
    assert guest("memory = 16\nmemory = 24").memory == 24 * MIB  # the last one counts


def test_strings_know_escapes() -> None:
    values, _ = parse_xl(r"""a = "x\ty\n\\ \"q\" \x41\101"; b='it\'s'; c = "#no comment;"; """, "f")
    assert {key: value.data for key, value in values.items()} == {
        "a": 'x\ty\n\\ "q" AA',
        "b": "it's",
        "c": "#no comment;",
    }


def test_lists_nest_and_add_up() -> None:
    values, last = parse_xl("a = [ 1,\n 'two', [ 3, ], ]\na += ['x']\nb=[]\n", "f")
    data = values["a"].data
    assert isinstance(data, list) and [v.data for v in data[:2]] == ["1", "two"] and data[3].data == "x"
    assert [value.line for value in data] == [1, 2, 2, 3]
    assert values["b"].data == [] and last == 5


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("017", 15), ("0x1F", 31), ("42", 42), ("08", None), ("1x", None), ("", None)]
)
def test_numbers(text: str, number: int | None) -> None:
    assert to_number(text) == number


def test_cmdline_comes_before_root_and_extra() -> None:
    loaded = read(BASE + 'cmdline = "c"\nroot = "r"\nextra = "e"', "f.cfg")
    assert loaded.guest.cmdline == "c"
    assert [warning.split(":")[1] for warning in loaded.warnings] == ["4", "5"]
    assert guest('root = "r"').cmdline == "root=r" and guest('extra = "e"').cmdline == "e"


def test_warnings() -> None:
    loaded = read(BASE + 'seclabel = "x:y"\nmemmory = 3\nzzz = 1\non_crash = "coredump-restart"\n', "f.cfg")
    assert loaded.warnings == (
        "f.cfg:3: seclabel: has no effect on this host",
        "f.cfg:4: memmory: is not known, and is ignored; is memory meant?",
        "f.cfg:5: zzz: is not known, and is ignored",
        "f.cfg:6: on_crash: no core is dumped; restart is done",
    )
    assert loaded.guest.actions.crash is Action.RESTART


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory = ", "3: expected a string in quotes, a number, or a list in [ ], not the end of the file"),
        ("memory\n", "3: expected = or += after memory, not the end of the line"),
        ("memory = 5 6", "3: expected a new line or ; after a setting, not 6"),
        ("= 5", "3: expected the name of a setting, not ="),
        ("memory = 5M", "3: expected a number or a string in quotes, not 5M"),
        ("vif = [ 'a'\n'b' ]", "4: expected , or ] in the list of line 3, not 'b'"),
        ("vif = [ 'a',\n\n", "5: expected ] for the [ of line 3, not the end of the file"),
        ("vif = [ ,]", "3: expected a string in quotes, a number, or a list in [ ], not ,"),
        ('extra = "no end\n', "3: expected a string that ends on its line, not '\"'"),
        ('extra = "\\q"', "3: expected a known escape in the string, not \\q"),
        ('extra = "a\\x00"', "3: expected a string without the byte 0"),
        ('extra = "a\\000"', "3: expected a string without the byte 0"),
        ("extra = 'a\0'", "3: expected a string without the byte 0"),
        ("\n\n$x = 1", "5: expected a setting, not '$'"),
        ("extra = 1\nextra += [1]", "4: extra: expected += with two lists or two strings"),
        ("a = " + "[" * 40, "3: expected less nesting, not ["),
        ("memory = 'lots'", '3: memory: expected a whole number of MiB from 1 to 16777216, not "lots"'),
        ("memory = 0", "3: memory: expected a whole number of MiB from 1 to 16777216, not 0"),
        ("memory = [1]", "3: memory: expected a whole number of MiB from 1 to 16777216, not a list"),
        ("memory = 64\nmaxmem = 32", "4: maxmem: expected at least the 64 of memory, not 32"),
        ("vcpus = 129", "3: vcpus: expected a whole number from 1 to 128, not 129"),
        ("vcpus = 3\nmaxvcpus = 2", "4: maxvcpus: expected at least the 3 of vcpus, not 2"),
        ("type = 'hvm'", '3: type: expected "pv": this host has no other guests, not "hvm"'),
        ("type = 'pvm'", '3: type: expected "pv", "pvh" or "hvm", not "pvm"'),
        ("builder = 'hvm'", '3: builder: expected "generic": this host has PV guests only, not "hvm"'),
        ("uuid = 'no'", '3: uuid: expected a UUID like 7c2f9a4e-5b0d-4d52-9a41-5f0c6d1f7a10, not "no"'),
        ("on_crash = 'rename-restart'", '3: on_crash: expected destroy, restart or preserve, not "rename-restart"'),
        ("name = 'a/b'", '3: name: expected name = "NAME", without a slash, not "a/b"'),
        ("vif = 'mac=1'", "3: vif: expected a list of strings like 'mac=00:16:3e:00:00:01', not \"mac=1\""),
        ("vif = [[]]", "3: vif: expected a string in the list, not a list"),
        ("vif = [\n'',\n'mac=1']", '5: vif "mac=1": expected a MAC address like 00:16:3e:00:00:01, not 1'),
        (
            "vif = ['speed=1']",
            '3: vif "speed=1": expected one of mac, bridge, ip, script, vifname, mtu, rate, backend, ',
        ),
        ("vif = ['mtu=1']", '3: vif "mtu=1": expected an mtu from 68 to 65535, not 1'),
        ("vif = ['rate=fast']", '3: vif "rate=fast": expected a rate like 10Mb/s or 1MB/s@20ms, not fast'),
        ("vif = ['', 'devid=0']", '3: vif "devid=0": expected a number of its own'),
        ("disk = ['/a']", '3: disk "/a": expected a vdev, for example xvda'),
        ("disk = ['/a,,xvda', '/b,,xvda']", '3: disk "/b,,xvda": expected a number of its own'),
        ("disk = ['/a,tar,xvda']", '3: disk "/a,tar,xvda": expected format raw, qcow, qcow2, vhd, qed, not tar'),
        ("disk = ['/a,,xvda,rx']", '3: disk "/a,,xvda,rx": expected access ro, r, rw, w, not rx'),
        ("disk = [',,xvda']", '3: disk ",,xvda": expected a target: only a cdrom may be empty'),
        ("disk = ['/a,,sdz']", '3: disk "/a,,sdz": expected a disk that there is a number for, not sdz'),
        ("disk = ['/a,,c:']", '3: disk "/a,,c:": expected the name of a disk like xvda, not c:'),
        ("disk = ['a=b']", '3: disk "a=b": expected one of target, format, vdev, access, devtype, '),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    found = mistake(text)
    assert found == message or (message.endswith(", ") and found.startswith(message))


MANY = "9" * 5000
WHERE = {  # a place for a number: its beginning
    f"memory = {MANY}": "3: memory: expected a whole number of MiB from 1 to 16777216, not 999",
    f"memory = '{MANY}'": "3: memory: expected a whole number of MiB from 1 to 16777216, not",
    f"memory = 0x{MANY}": "3: memory: expected a whole number",
    f"name = {MANY}x": "3: expected a number or a string in quotes, not 999",
    f"vif = ['devid={MANY}']": '3: vif "devid=999',
    f"vif = ['devid={'0' * 5000}1']": '3: vif "devid=000',
    f"vif = ['mtu={MANY}']": '3: vif "mtu=999',
    f"vif = ['mac={MANY}']": '3: vif "mac=999',
    f"vif = ['{MANY}']": '3: vif "999',
    f"disk = ['/a,,{MANY}']": '3: disk "/a,,999',
    f"disk = ['/a,,d{MANY}']": '3: disk "/a,,d999',
    f"disk = ['/a,,xvda{MANY}']": '3: disk "/a,,xvda999',
    "disk = ['/a,,09']": '3: disk "/a,,09": expected a number of a disk, not 09',
    f"{MANY}": "3: expected the name of a setting, not 999",
}


@pytest.mark.parametrize("text", WHERE, ids=lambda text: text[:20])
def test_long_numbers_are_mistakes_of_one_short_line(text: str) -> None:
    message = mistake(text)
    assert message.startswith(WHERE[text]) and len(message) < 250, message
    assert "digits" not in message


@pytest.mark.parametrize("key", ["memory", "vcpus", "name", "address_size"])
def test_long_numbers_in_json(key: str) -> None:
    members = {"name": '"a"', "kernel": '"k"', key: MANY}
    text = "{" + ",".join(f'"{name}": {value}' for name, value in members.items()) + "}"
    message = mistake(text, base="")
    assert message.startswith(f"1: {key}: expected") and len(message) < 200, message


def test_what_a_message_repeats_stays_on_its_line() -> None:
    assert mistake('name = "a\\nb"') == '3: name: expected name = "NAME", without a slash, not "a\\nb"'
    assert "\n" not in read(BASE + "vif=['']", "f").guest.name
    loaded = read('{"name": "a", "kernel": "k", "x\\ny": 1}', "f")
    assert loaded.warnings == ("f:1: x\\ny: is not known, and is ignored",)


@pytest.mark.parametrize("form", ["qcow", "qcow2", "vhd", "qed"])
def test_only_raw_images_are_served(form: str) -> None:
    for text in (f"/a,{form},xvda,rw", f"{form}:/a,xvda,rw", f"target=/a, format={form}"):
        text = text if "xvda" in text else f"vdev=xvda, format={form}, target=/a"
        assert mistake(f"disk = [\n'{text}']") == (
            f"4: disk xvda: expected a raw image, not {form}: only raw images are served"
        )
    assert guest("disk = ['/a,,xvda,rw', 'raw:/b,xvdb,r']").devices == (
        Vbd(target="/a", vdev="xvda"),
        Vbd(target="/b", vdev="xvdb", readonly=True),
    )


def test_the_lines_of_settings_and_devices() -> None:
    found = guest("\ndisk = ['/a,,xvda',\n'/b,,xvdb']\nextra='x'\nvif=['']")
    assert [found.where(about) for about in ("kernel", "disk xvdb", "cmdline", "vif 0", "memory")] == [
        "f.cfg:2", "f.cfg:5", "f.cfg:6", "f.cfg:7", "f.cfg",
    ]  # fmt: skip


@pytest.mark.parametrize("ip", ["999.1.1.1", "10.0.0", "x", "::1", "10.0.0.1 10.0.0.2"])
def test_addresses_in_chaos_files(ip: str) -> None:
    text = json.dumps({"name": "a", "kernel": "k", "vifs": [{"ip": ip}]})
    assert mistake(text, base="") == f'1: vifs[0].ip: expected an IPv4 address like 10.0.0.2, not "{ip}"'
    for good in ("10.0.0.1", "10.0.0.1/24"):
        assert read(text.replace(ip, good), "f").guest.devices[0] == Vif(0, ip=good)


def test_what_must_be_there() -> None:
    assert mistake("memory = 3\n", base="") == '2: name is missing: expected name = "NAME", without a slash'
    assert mistake('name = "a"\nbootloader = "pygrub"', base="").startswith("2: kernel is missing: expected kernel =")


# --- disks and interfaces ---


@pytest.mark.parametrize(
    "text",
    [
        "/dev/vg/guest-volume,,hda",
        "/dev/vg/guest-volume,raw,hda,rw",
        "format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume",
        "raw:/dev/vg/guest-volume,hda,w",
        "phy:vg/guest-volume,hda,w",
    ],
)
def test_disks_that_the_manual_calls_equal(text: str) -> None:
    assert guest(f"disk = ['{text}']").devices == (Vbd(target="/dev/vg/guest-volume", vdev="hda"),)


@pytest.mark.parametrize(
    "text",
    [
        "/root/image.iso,,hdc,cdrom",
        "/root/image.iso,,hdc,,cdrom",
        "/root/image.iso,raw,hdc,devtype=cdrom",
        "format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/root/image.iso",
        "raw:/root/image.iso,hdc:cdrom,ro",
    ],
)
def test_cdroms_that_the_manual_calls_equal(text: str) -> None:
    expected = Vbd(target="/root/image.iso", vdev="hdc", readonly=True, cdrom=True)
    assert guest(f"disk = ['{text}']").devices == (expected,)


@pytest.mark.parametrize(
    ("vdev", "number"),  # xen-vbd-interface(7)
    [
        ("xvda", 202 << 8),
        ("xvdb2", 202 << 8 | 1 << 4 | 2),
        ("d0", 202 << 8),
        ("d1p2", 202 << 8 | 1 << 4 | 2),
        ("xvdtq37", 1 << 28 | 536 << 8 | 37),
        ("d536p37", 1 << 28 | 536 << 8 | 37),
        ("xvdq", 1 << 28 | 16 << 8),
        ("xvda16", 1 << 28 | 16),
        ("sdb3", 8 << 8 | 1 << 4 | 3),
        ("hda", 3 << 8),
        ("hdb1", 3 << 8 | 1 << 6 | 1),
        ("hdc2", 22 << 8 | 2),
        ("51712", 51712),
        ("0xca00", 51712),
    ],
)
def test_numbers_of_disks(vdev: str, number: int) -> None:
    assert Vbd(target="/x", vdev=vdev).devid == number


def test_an_address_is_derived_from_the_uuid() -> None:
    one, other = uuid.UUID(int=1), uuid.UUID(int=2)
    vif = Vif(devid=0)
    assert re.fullmatch(r"00:16:3e:[0-7][0-9a-f]:[0-9a-f]{2}:[0-9a-f]{2}", vif.address(one))
    assert len({vif.address(one), vif.address(other), Vif(devid=1).address(one)}) == 3
    assert Vif(devid=0, mac="02:00:00:00:00:01").address(one) == "02:00:00:00:00:01"


# --- chaos's JSON ---

CHAOS = """{
  "name": "d1", "kernel": "daytime.bin", "ramdisk": null,
  "cmdline": "x=1", "memory": 8,
  "vcpus": {"count": 2, "cpumap": [[0], [1]]},
  "address_size": 64, "paused": true,
  "vifs": [{"ip": "10.0.0.5", "mac": "00:16:3E:00:00:05", "bridge": "br0"}],
  "vbds": [{"target": "/tmp/d.img", "type": "file", "vdev": "xvda", "access": "r"}],
  "xen": {"pvh": false, "dev_method": "noxs"}
}"""


def test_a_chaos_file() -> None:
    loaded = read(CHAOS, "d1.json")
    assert loaded.guest == GuestConfig(
        name="d1",
        kernel="daytime.bin",
        memory=8 * MIB,
        maxmem=8 * MIB,
        vcpus=2,
        maxvcpus=2,
        cmdline="x=1",
        actions=Actions(reboot=Action.DESTROY),
        devices=(
            Vbd(target="/tmp/d.img", vdev="xvda", readonly=True),
            Vif(devid=0, mac="00:16:3e:00:00:05", bridge="br0", ip="10.0.0.5"),
        ),
        paused=True,
        design="noxs",
        source="d1.json",
    )
    assert loaded.warnings == ("d1.json:4: vcpus.cpumap: has no effect on this host",)


START = '{"name":"a","kernel":"k",\n'


@pytest.mark.parametrize(
    ("text", "message"),  # "@" stands for START
    [
        ('{"name": "a"\n"kernel": "k"}', "2: expected , or }, not '\"'"),
        ('{"name": "a",\n}', "2: expected a value after the comma, not '}'"),
        ("{'name': 1}", '1: expected a name in double quotes, not "\'"'),
        ('{"name" 1}', "1: expected : after name, not '1'"),
        ('{"name": nope}', "1: expected a value, not 'n'"),
        ('{"name": "a', "1: expected a JSON string (Unterminated string starting at)"),
        ('{"name": "a\\ud800"}', "1: expected a string without \\u0000 and lone surrogates"),
        ('{"name": "a\\u0000"}', "1: expected a string without \\u0000 and lone surrogates"),
        ('{"name": "a"} x', "1: expected the end of the file, not 'x'"),
        ('{"name": "a",\n"name": "b"}', "2: expected name once, it is there twice"),
        ('{"name": "a"}', "1: kernel is missing: expected the name of a file"),
        ('@"memory": "8"}', None),
        ('@"memory": 8.5}', "2: memory: expected a whole number of MiB from 1 to 16777216, not 8.5"),
        ('@"memory": true}', "2: memory: expected a whole number of MiB from 1 to 16777216, not true"),
        ('@"address_size": 32}', "2: address_size: expected 64: this host has no 32-bit guests, not 32"),
        ('@"vifs": [{"mac":"x"}]}', '2: vifs[0].mac: expected a MAC address like 00:16:3e:00:00:01, not "x"'),
        ('@"vifs": {}}', "2: vifs: expected a list of objects, not an object"),
        ('@"vbds": [1]}', "2: vbds[0]: expected an object, not 1"),
        (
            '@"vbds": [{"vdev":"xvda"}]}',
            "2: vbds[0].target is missing: expected the path of an image or a block device",
        ),
        ('@"vbds": [{"target":"t","vdev":"x"}]}', '2: vbds[0].vdev: expected the name of a disk like xvda, not "x"'),
        ('@"xen": {"pvh":true}}', "2: xen.pvh: expected false: this host has PV guests only, not true"),
        ('@"xen": {"dev_method":"magic"}}', '2: xen.dev_method: expected "xenstore" or "noxs", not "magic"'),
        ('@"on_crash": "explode"}', '2: on_crash: expected "destroy", "restart" or "preserve", not "explode"'),
    ],
)
def test_mistakes_in_json(text: str, message: str | None) -> None:
    if message is None:
        assert read(text.replace("@", START), "f").guest.memory == 8 * MIB  # a number in quotes is one here, too
        return
    assert mistake(text.replace("@", START), base="") == message


def test_too_many_devices_for_chaos() -> None:
    text = json.dumps({"name": "a", "kernel": "k", "vifs": [{}] * 16})
    assert mistake(text, base="") == "1: vifs: expected at most 15 of them, not an object"


# --- files ---


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "binary", "3: expected UTF-8 text, not the byte 0xff"),
        (tmp_path / "big", "expected a configuration"),
    ):
        (tmp_path / "binary").write_bytes(b"a=1\n\n\xff")
        (tmp_path / "big").write_bytes(b"#" * ((1 << 20) + 1))
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert str(path) in str(caught.value) and words in str(caught.value)


# --- properties ---

TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)
VALUES = st.recursive(TEXTS | st.integers(0, 1 << 40), lambda inner: st.lists(inner, max_size=4), max_leaves=8)
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True)


def rendered(value: object) -> str:
    """xl's way to write a value."""
    if isinstance(value, list):
        return "[" + ",\n".join(rendered(item) for item in value) + "]"
    if isinstance(value, int):
        return str(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def plain(value: Value) -> object:
    """A parsed value without its lines; bare numbers as numbers."""
    if isinstance(value.data, list):
        return [plain(item) for item in value.data]
    if isinstance(value.data, dict):
        return {key: plain(item) for key, item in value.data.items()}
    return int(value.data) if isinstance(value.data, str) and not value.quoted else value.data


@given(st.dictionaries(NAMES, VALUES, max_size=5), st.sampled_from(["\n", ";", " # c\n", "\n\n"]))
def test_what_is_written_in_xls_syntax_is_read_back(settings: dict[str, object], between: str) -> None:
    text = between.join(f"{key} = {rendered(value)}" for key, value in settings.items())
    values, _ = parse_xl(text, "f")
    assert {key: plain(value) for key, value in values.items()} == settings


JSON = st.recursive(
    TEXTS | st.integers(-(1 << 40), 1 << 40) | st.booleans() | st.none() | st.floats(allow_nan=False, width=32),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(TEXTS, JSON, max_size=4), st.sampled_from([None, 1]))
def test_json_is_read_as_pythons_own_parser_does(members: dict[str, object], indent: int | None) -> None:
    text = json.dumps(members, indent=indent, allow_nan=False) if "inf" not in str(members).lower() else "{}"
    values, _ = parse_json(text, "f")
    assert {key: plain(value) for key, value in values.items()} == json.loads(text)


WORDS = "name kernel memory vif disk uuid vcpus on_crash mac= 'a' \"b\" 1 0x1 -1 1e3 null true"
SIGNS = "= += [ ] , ; # { } \" ' : \\ \\x00 \\ud900 \\u0000"
PIECES = st.sampled_from([*WORDS.split(), *SIGNS.split(), "\n", " "])


@given(st.lists(PIECES, max_size=20).map("".join) | st.text(max_size=40))
def test_no_text_does_worse_than_one_line(text: str) -> None:
    for prefix in ("", BASE, '{"name": "a", "kernel": "k", '):
        try:
            read(prefix + text, "f.cfg")
        except ConfigError as error:
            assert re.match(r"f\.cfg:\d+: ", str(error)) and len(str(error).splitlines()) == 1
