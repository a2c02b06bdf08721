"""Runs a PV guest on the real Xen 4.17 in QEMU: as dom0 (a second), or as a domU of a Debian Linux dom0 (15 s).

Nothing is installed. Xen, QEMU and the tools are Debian packages; the kernel of the domU's dom0 is the installed one,
or is downloaded and unpacked into the cache, with an initrd built from the tools. `Missing` says what is not there.
Results are cached by everything they depend on, in `$XDG_CACHE_HOME/pyvmm-oracle`: outside the tree.

`python -m tests.oracle.xen dom0|domu IMAGE [COMMAND LINE]` prints a guest's console; `... qemu` unpacks QEMU 10 from
Debian's backports into the cache, where it is then preferred: QEMU before 10 gets some exceptions wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pyvmm-oracle"
XEN = Path("/boot/xen-4.17-amd64.gz")
QEMU10 = CACHE / "qemu10"
XENBIN = "/usr/lib/xen-4.17/bin"
BUSYBOX = Path("/bin/busybox")
TOOLS = [f"{XENBIN}/{t}" for t in ("xl", "xenstored", "xenconsoled", "xenconsole", "xen-init-dom0")]
APPLETS = "sh cat ls mount insmod sleep echo cut grep awk basename tail poweroff mkdir".split()
MODULES = "xen-privcmd xen-evtchn xen-gntdev xen-gntalloc xenfs xen-netback".split()
INIT = r"""#!/bin/sh
export PATH=/bin:/usr/bin:/usr/lib/xen-4.17/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /run /tmp /var/log/xen/console /var/lib/xen /var/lock
mount -t devpts devpts /dev/pts
for m in MODULES; do insmod /mods/$m.ko; done
mount -t xenfs xenfs /proc/xen
xenstored --pid-file=/run/xenstored.pid --trace-file=/tmp/store
sleep 1
xen-init-dom0 >/dev/null
xenconsoled --log=guest --log-dir=/var/log/xen/console --pid-file=/run/xenconsoled.pid
for c in /guests/*.cfg; do
  n=$(basename $c .cfg)
  : >/tmp/store
  xl create -q $c >/tmp/xl.out 2>&1 || { echo "ORACLE xl create failed"; tail -n 5 /tmp/xl.out; }
  if [ -e /guests/$n.trace ]; then echo "ORACLE store $n"; grep ^IN /tmp/store; echo "ORACLE stored $n"; fi
  i=0; while [ $i -lt 150 ]; do xl domid $n >/dev/null 2>&1 || break; sleep 0.2; i=$((i+1)); done
  xl domid $n >/dev/null 2>&1 && xl destroy $n
  echo "ORACLE begin $n"; cat /var/log/xen/console/guest-$n.log 2>/dev/null
  echo; echo "ORACLE end $n"
done
echo "ORACLE done"
poweroff -f
""".replace("MODULES", " ".join(MODULES))
HALT = r"halting machine|rebooting machine|Manual reset required|FATAL|Kernel panic"
CRASH = r"\(XEN\) (Hardware Dom0 crashed|FATAL|Domain \d+ .*crashed|domain_crash)|Kernel panic|ORACLE xl create failed"


class Missing(Exception):
    """Something that the run needs is not on this machine; the text names it."""


class Outcome(NamedTuple):
    """A guest's console, whether Xen saw a crash or the time limit passed, and, where it was asked for, what xenstored
    was sent up to then, as its trace file has it."""

    lines: list[str]
    crashed: bool
    ended: bool
    store: Sequence[str] = ()


class Guest(NamedTuple):
    """One domU to run."""

    image: Path
    cmdline: str = ""
    vcpus: int = 1
    memory: int = 128
    vif: bool = False
    """It has a network interface, whose hotplug script does nothing."""
    trace: bool = False
    """The messages that xenstored gets until `xl create` is done are wanted."""


def qemu() -> str:
    """The QEMU to use: `$PYVMM_ORACLE_QEMU`, the unpacked QEMU 10, or the installed one."""
    ours = QEMU10 / "usr/bin/qemu-system-x86_64"
    found = os.environ.get("PYVMM_ORACLE_QEMU") or (str(ours) if ours.exists() else shutil.which("qemu-system-x86_64"))
    if not found:
        raise Missing("qemu-system-x86_64")
    return found


def qemu_version() -> str:
    """Version of that QEMU, as it says it."""
    text = subprocess.run([qemu(), "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"version (\S+)", text)
    return match.group(1) if match else text.strip()


def cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A newc archive of (name, mode, content)."""
    out = bytearray()
    for inode, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        raw = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + raw
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def archive(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """A cpio archive of files and symbolic links by path, and of the folders they are in."""
    names = [*files, *(links or {})]
    folders = sorted({"/".join(p.split("/")[:i]) for p in names for i in range(1, len(p.split("/")))})
    entries = [(folder, stat.S_IFDIR | 0o755, b"") for folder in folders]
    entries += [(path, stat.S_IFREG | 0o755, data) for path, data in files.items()]
    entries += [(path, stat.S_IFLNK | 0o777, target.encode()) for path, target in (links or {}).items()]
    return cpio(entries)


def xen_elf() -> Path:
    """The hypervisor, unpacked into the cache."""
    if not XEN.exists():
        raise Missing(str(XEN))
    file = CACHE / "xen.elf"
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        file.write_bytes(zlib.decompress(XEN.read_bytes(), 31))
    return file


def linux() -> tuple[Path, Path]:
    """(kernel image, folder with its modules): the installed Debian kernel, or one downloaded into the cache."""
    for image in sorted(Path("/boot").glob("vmlinuz-*"), reverse=True):
        modules = Path("/lib/modules") / image.name.removeprefix("vmlinuz-")
        if (modules / "kernel/drivers/xen").is_dir():
            return image, modules
    root = CACHE / "linux"
    if not root.exists():
        with tempfile.TemporaryDirectory() as work:
            download("linux-image-amd64", Path(work), depends=True)
            unpack(Path(work), root)
    (image,) = root.glob("boot/vmlinuz-*")
    (modules,) = root.glob("lib/modules/*")
    return image, modules


def download(package: str, folder: Path, depends: bool = False, options: Sequence[str] = ()) -> None:
    """Fetches a package of Debian's (or the one that a meta-package stands for) into `folder`."""
    try:
        if depends:
            query = ["apt-cache", "depends", package]
            text = subprocess.run(query, capture_output=True, text=True, check=True).stdout
            (package,) = re.findall(r"Depends: (linux-image-\S+)", text)[:1]
        subprocess.run(["apt-get", *options, "download", package], cwd=folder, check=True, capture_output=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise Missing(f"{package} (apt-get download did not bring it)") from error


def unpack(folder: Path, root: Path) -> None:
    """Unpacks every package in `folder` into `root`, which appears at once or not at all."""
    part = root.with_name(root.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(part)], check=True)
    part.rename(root)


def libraries(program: str) -> list[str]:
    """The shared libraries of a program."""
    text = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return re.findall(r"(/\S+\.so\S*)", text)


def dom0_initrd() -> tuple[Path, Path]:
    """(kernel, initrd) of the Linux dom0 with xl, xenstored and xenconsoled; built once."""
    image, modules = linux()
    for needed in (BUSYBOX, *map(Path, TOOLS)):
        if not needed.exists():
            raise Missing(f"{needed} (busybox-static, xen-utils-4.17)")
    key = hashlib.sha256((INIT + str(image)).encode()).hexdigest()[:12]
    file = CACHE / f"dom0-{key}.cpio"
    if not file.exists():
        files = {
            "init": INIT.encode(),
            "bin/nothing": b"#!/bin/sh\n",
            "bin/busybox": BUSYBOX.read_bytes(),
            "etc/xen/xl.conf": b'autoballoon="off"\n',
        }
        for module in MODULES:
            (path,) = modules.glob(f"kernel/drivers/**/{module}.ko")
            files[f"mods/{module}.ko"] = path.read_bytes()
        for tool in TOOLS:
            files |= {path[1:]: Path(path).read_bytes() for path in (tool, *libraries(tool))}
        unwinder = "/lib/x86_64-linux-gnu/libgcc_s.so.1"  # pthread_cancel loads it when it is needed
        files[unwinder[1:]] = Path(unwinder).read_bytes()
        for folder in ("proc", "sys", "dev", "run", "tmp", "var/run", "var/lock", "var/log/xen/console", "var/lib/xen"):
            files[f"{folder}/.keep"] = b""
        part = file.with_suffix(".part")
        part.write_bytes(archive(files, {f"bin/{applet}": "busybox" for applet in APPLETS}))
        part.rename(file)
    return image, file


def qemu_command(initrd: str, memory: int, smp: int = 1, xen: str = "", icount: bool = False) -> list[str]:
    """What starts QEMU with Xen and, as its dom0, the first word of `initrd`; the console is its standard output. With
    `icount` the time stamp counter counts instructions, and an idle machine's time goes on to the next timer."""
    program = qemu()
    data = (
        [f"{QEMU10}/usr/share/qemu", "/usr/share/seabios", "/usr/share/qemu"] if program.startswith(str(QEMU10)) else []
    )
    command = [program, *(word for folder in data for word in ("-L", folder)), "-accel", "tcg", "-m", str(memory)]
    command += ["-smp", str(smp), "-no-reboot", "-nodefaults", "-vga", "none", "-display", "none", "-serial", "stdio"]
    command += ["-monitor", "none", "-net", "none", "-kernel", str(xen_elf()), "-initrd", initrd]
    if icount:
        command += ["-icount", "shift=0,sleep=off"]
        xen += " tsc=stable"
    return [*command, "-append", f"com1=115200,8n1 console=com1 loglvl=all guest_loglvl=all {xen}"]


def boot(
    initrd: str, stop: str, memory: int, smp: int, xen: str, limit: float, icount: bool = False
) -> tuple[list[str], bool]:
    """Runs QEMU until a line matches `stop`: the lines of its serial port, and whether that came in `limit` seconds."""
    command = qemu_command(initrd, memory, smp, xen, icount)
    end = time.monotonic() + limit
    text = b""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        try:
            while (left := end - time.monotonic()) > 0 and select.select([process.stdout], [], [], left)[0]:
                chunk = os.read(process.stdout.fileno(), 65536)
                text += chunk
                if not chunk or re.search(stop, text[: text.rfind(b"\n") + 1].decode("latin1")[-8192:]):
                    break
        finally:
            process.kill()
    lines = [line.rstrip("\r") for line in text.decode("latin1").split("\n")]
    return lines, any(re.search(stop, line) for line in lines)


def dom0(
    image: Path, cmdline: str = "", smp: int = 1, *, module: Path | None = None, options: str = "", icount: bool = False
) -> Outcome:
    """Boots `image` as the machine's dom0, with a `module` and Xen's own `options`. The command line cannot hold a
    comma (QEMU's)."""
    if "," in f"{image}{cmdline}{module}":
        raise ValueError("no commas: QEMU takes them as the end of the command line")

    def run() -> list[Outcome]:
        initrd = f"{image} {cmdline}".strip() + (f",{module}" if module else "")
        lines, ended = boot(initrd, HALT, 512, smp, options, 120, icount)
        begin = next((i for i, line in enumerate(lines) if line.startswith("(XEN)") and "init memory" in line), 0)
        console = [line for line in lines[begin:] if not line.startswith("(XEN)")]
        return [Outcome(strip(console), any(re.search(CRASH, line) for line in lines), ended)]

    key: list[object] = ["dom0", image_hash(image), cmdline, smp]
    if module or options or icount:
        key += [image_hash(module) if module else "", options, icount]
    return cached(key, run)[0]


def domu(*guests: Guest) -> list[Outcome]:
    """Boots each guest in turn, as a domU made by xl, in one run of the machine."""
    kernel, initrd = dom0_initrd()

    def run() -> list[Outcome]:
        files: dict[str, bytes] = {}
        for number, guest in enumerate(guests):
            name = f"guest{number:02}"
            config = {"name": f'"{name}"', "type": '"pv"', "memory": guest.memory, "vcpus": guest.vcpus}
            config |= {"kernel": f'"/guests/{name}.bin"', "extra": f'"{guest.cmdline}"'}
            config |= {"on_reboot": '"destroy"', "on_crash": '"destroy"'}
            if guest.vif:
                config["vif"] = '["mac=00:16:3e:00:00:07,script=/bin/nothing"]'
            if guest.trace:
                files[f"guests/{name}.trace"] = b""
            files[f"guests/{name}.bin"] = guest.image.read_bytes()
            files[f"guests/{name}.cfg"] = "".join(f"{k}={v}\n" for k, v in config.items()).encode()
        with tempfile.NamedTemporaryFile(suffix=".cpio") as both:
            both.write(initrd.read_bytes() + archive(files))
            both.flush()
            parts = f"{kernel} console=hvc0 rdinit=/init quiet loglevel=4 nokaslr,{both.name}"
            lines, _ = boot(parts, HALT + "|ORACLE done", 1024, 1, "dom0_mem=400M,max:400M", 120 + 40 * len(guests))
        crashed = any(re.search(CRASH, line) for line in lines)
        return [consoles(lines, f"guest{number:02}", crashed) for number in range(len(guests))]

    keys = [(image_hash(g.image), *g[1:]) for g in guests]
    return cached(["domu", INIT, str(kernel), keys], run)


def consoles(lines: Sequence[str], name: str, crashed: bool) -> Outcome:
    """What the Linux dom0 printed as the console of one guest."""
    if f"ORACLE begin {name}" not in lines or f"ORACLE end {name}" not in lines:
        return Outcome([], crashed, False)
    inside = lines[lines.index(f"ORACLE begin {name}") + 1 : lines.index(f"ORACLE end {name}")]
    store: list[str] = []
    if f"ORACLE store {name}" in lines:
        store = lines[lines.index(f"ORACLE store {name}") + 1 : lines.index(f"ORACLE stored {name}")]
    console = strip([line for line in inside if not line.startswith("(XEN)")])
    return Outcome(console, crashed, True, [line for line in store if line.startswith("IN ")])


def strip(lines: list[str]) -> list[str]:
    """The lines without carriage returns and without empty ones at the end."""
    clean = [line.strip("\r") for line in lines]
    while clean and not clean[-1]:
        clean.pop()
    return clean


def image_hash(image: Path) -> str:
    """sha256 of the image."""
    return hashlib.sha256(image.read_bytes()).hexdigest()


def cached(key: object, run: Callable[[], list[Outcome]]) -> list[Outcome]:
    """The result of `run`, kept by `key` and by Xen and QEMU; runs that did not end are not kept."""
    xen = hashlib.sha256(xen_elf().read_bytes()).hexdigest()
    name = hashlib.sha256(json.dumps([key, xen, qemu_version()]).encode()).hexdigest()
    file = CACHE / "results" / f"{name}.json"
    if file.exists():
        return [Outcome(*fields) for fields in json.loads(file.read_text())]
    result = run()
    if all(outcome.ended for outcome in result):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(result))
        part.rename(file)
    return result


def unpack_qemu10() -> None:
    """Downloads QEMU from the backports of the mirror that this machine uses, and unpacks it into the cache."""
    sources = [*Path("/etc/apt/sources.list.d").glob("*.sources"), Path("/etc/apt/sources.list")]
    text = "\n".join(source.read_text() for source in sources if source.exists())
    mirror = re.search(r"^(?:URIs:\s*|deb\s+(?:\[[^]]*\]\s*)?)(\S+/debian/?)(?:\s|$)", text, re.MULTILINE)
    if mirror is None:
        raise Missing("a Debian mirror in /etc/apt")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "lists/partial").mkdir(parents=True)
        key = "/usr/share/keyrings/debian-archive-keyring.gpg"
        (folder / "list").write_text(f"deb [signed-by={key}] {mirror.group(1)} bookworm-backports main\n")
        options = [f"-oDir::Etc::sourcelist={folder}/list", "-oDir::Etc::sourceparts=/dev/null"]
        options.append(f"-oDir::State::lists={folder}/lists")
        subprocess.run(["apt-get", *options, "update", "-q"], check=True, capture_output=True)
        for package in ("qemu-system-x86", "qemu-system-data"):
            download(package, folder, options=options)
        unpack(folder, QEMU10)


def main(arguments: Sequence[str]) -> int:
    """The command line of this file."""
    if arguments[:1] == ["qemu"]:
        unpack_qemu10()
        return 0
    if len(arguments) < 2 or arguments[0] not in ("dom0", "domu"):
        print(__doc__)
        return 2
    image, cmdline = Path(arguments[1]), " ".join(arguments[2:])
    outcome = dom0(image, cmdline) if arguments[0] == "dom0" else domu(Guest(image, cmdline, vcpus=2))[0]
    print("\n".join(outcome.lines))
    return int(outcome.crashed or not outcome.ended)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
