"""The disks of the emulated machines: a small Debian with two kernels and this Python; this tree, compiled.

Every step leaves a file that says what it was made from, once it is whole. So a build that was interrupted
goes on where it was, and what has changed is made anew. All of it lies in `build/vm`, and this machine stays
as it is. Root is needed for a Debian in a folder of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
TREE = HERE.parents[1]
CACHE = TREE / "build/vm"
DEBIAN = CACHE / "debian"
COPY = CACHE / "tree"
LOG = CACHE / "build.log"
RELEASE = "bookworm"
PACKAGES = (
    "apt-utils,ca-certificates,git,initramfs-tools,iproute2,kmod,libbz2-1.0,libffi8,libgomp1,liblzma5,"
    "libncursesw6,libreadline8,libsqlite3-0,libssl3,make,procps,udev,zlib1g"
)
MODULES = "virtio_pci\nvirtio_blk\next4\n"
COMPILE = (
    "-m",
    "compileall",
    "-q",
    "-x",
    "/(tests?|idlelib|lib2to3)/",
    "--invalidation-mode",
    "unchecked-hash",
)
PROCESSOR = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}  # of the emulated machines
UNUSED = ("docs/", "reports/")
NEEDED = {
    "debootstrap": "debootstrap",
    "qemu-system-x86_64": "qemu-system-x86",
    "mke2fs": "e2fsprogs",
    "unshare": "util-linux",
}
IN_ROOT = r"""
root=$1 lane=$2 tree=$3; shift 3
mount -t proc proc "$root/proc"
mount --bind /sys "$root/sys" && mount -o remount,ro,bind "$root/sys"
mount --bind /dev "$root/dev"
folder_inside=/
for folder in dev/shm tmp run; do mount -t tmpfs tmp "$root/$folder"; done
if [ -n "$lane" ]; then
  folder_inside=$PWD
  mkdir -p "$root/lane"
  mount --bind "$lane" "$root/lane"
  mount --bind "$tree" "$root/mnt"
  mount --bind "$root$PWD/.venv" "$root/mnt/.venv"
  mount --move "$root/mnt" "$root$PWD"
fi
chroot "$root" env -C "$folder_inside" "$@"
exit $?  # the shell stays: the first process of a namespace has duties
"""


def say(text: str) -> None:
    """Tell what is going on."""
    sys.stderr.write(f"vm: {text}\n")


def run(*command: object, **how) -> str:
    """Run a command, its messages to the log; return what it printed, or end with a line if it fails."""
    words = [str(word) for word in command]
    with LOG.open("a") as log:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=log, text=True, check=False, **how)
        log.write(done.stdout)
    if done.returncode:
        sys.exit(f"vm: {words[0]} ended with {done.returncode}; its messages are in {LOG}")
    return done.stdout


def why_not() -> str | None:
    """Return what this machine lacks for building and booting."""
    if os.geteuid() != 0:
        return "needs root: building a Debian in a folder changes its root and mounts there"
    if missing := sorted({package for name, package in NEEDED.items() if not shutil.which(name)}):
        return f"needs {' and '.join(missing)}: apt-get install {' '.join(missing)}"
    return None


def step(name: str, key: object, make: Callable[[], None]) -> None:
    """Make something unless it was made from the same `key` before."""
    stamp, text = CACHE / f"{name}.made", str(key)
    if stamp.exists() and stamp.read_text() == text:
        return
    say(f"{name} ...")
    stamp.unlink(missing_ok=True)
    make()
    stamp.with_suffix(".part").write_text(text)
    stamp.with_suffix(".part").replace(stamp)


# --- Debian ----------------------------------------------------------------------------------------------


def mirror() -> str:
    """Return where this machine's apt gets its Debian from."""
    if url := os.environ.get("MIRROR"):
        return url
    command = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    found = [line.split()[1] for line in listed if line.startswith("Debian ") and "security" not in line]
    if not found:
        sys.exit("vm: apt has no Debian mirror here; name one: MIRROR=<url> make vm")
    return found[0]


def in_root(*command: object, lane: Path | None = None) -> list[str]:
    """Return the words that run a command in the Debian of the image, with mounts that nobody else sees.

    With the folder of a job, the copy of this tree is in its place there; the environment is already.
    """
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", IN_ROOT, "in-root"]
    return [*words, str(DEBIAN), str(lane or ""), str(COPY), *map(str, command)]


def debootstrap() -> None:
    """Unpack a small Debian."""
    shutil.rmtree(DEBIAN, ignore_errors=True)
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, DEBIAN, mirror())


def kernels() -> None:
    """Install Debian's kernel and its newest backport; their initial RAM disks find the image and no more."""
    etc = DEBIAN / "etc"
    (etc / "initramfs-tools/conf.d/lane").write_text("MODULES=list\n")
    (etc / "initramfs-tools/modules").write_text(MODULES)
    sources = (f"deb {mirror()} {suite} main\n" for suite in (RELEASE, f"{RELEASE}-backports"))
    (etc / "apt/sources.list").write_text("".join(sources))
    (etc / "apt/apt.conf.d/99host").write_text(run("apt-config", "dump", "Acquire"))
    (etc / "resolv.conf").write_bytes(Path("/etc/resolv.conf").read_bytes())
    install = "DEBIAN_FRONTEND=noninteractive apt-get -qqy --no-install-recommends install linux-image-amd64"
    script = f"apt-get -q update && {install} && {install} -t {RELEASE}-backports"
    run(*in_root("sh", "-ec", script), cwd=TREE)


def kernel(version: str) -> tuple[Path, Path]:
    """Return a kernel of the image and its initial RAM disk."""
    found = max((DEBIAN / "boot").glob(f"vmlinuz-{version}*"))
    return found, found.with_name(found.name.replace("vmlinuz", "initrd.img"))


# --- Python ----------------------------------------------------------------------------------------------


def python_folders() -> list[Path]:
    """Return the folders that this Python and its packages are made of."""
    packages = (path for path in sys.path if path.endswith("-packages"))
    listed = [Path(sys.base_prefix), Path(sys.prefix), *map(Path, packages)]
    if Path(sys.base_prefix) == Path("/usr"):
        sys.exit("vm: needs an environment with a Python of its own, not that of /usr: PYTHON=... make setup")
    folders = [path.resolve() for path in listed if path.is_dir()]
    return [f for f in dict.fromkeys(folders) if not any(f != g and f.is_relative_to(g) for g in folders)]


def packages() -> None:
    """Copy this Python and its packages to where they are here, and compile them."""
    for folder in python_folders():
        target = DEBIAN / folder.relative_to("/")
        target.mkdir(parents=True, exist_ok=True)
        run("cp", "-a", "-T", folder, target)
    shutil.copy2(HERE / "init", DEBIAN / "lane-init")
    (DEBIAN / "lane").mkdir(exist_ok=True)
    words = (*COMPILE, "-j", os.cpu_count(), *python_folders())
    subprocess.run(in_root(sys.executable, *words), cwd=TREE, stdout=subprocess.DEVNULL, check=False)


# --- disks -----------------------------------------------------------------------------------------------


def disk(folder: Path, path: Path, spare_mib: int) -> None:
    """Make a disk image with what is in a folder."""
    used_kib = int(run("du", "-sk", folder).split()[0])
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    size = f"{used_kib * 12 // 10 // 1024 + spare_mib}M"
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", folder, part, size)
    part.replace(path)


def tree_files() -> list[str]:
    """Return the files of this tree that tests may need, as git knows them and as they are now."""
    command = ["git", "-C", TREE, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = run(*command).split("\0")
    return [name for name in listed if (TREE / name).is_file() and not name.startswith(UNUSED)]


def tree_digest() -> str:
    """Return a digest of all files of this tree."""
    digest = hashlib.sha256()
    for name in tree_files():
        digest.update(name.encode() + (TREE / name).read_bytes())
    return digest.hexdigest()


def copy_tree() -> None:
    """Bring the copy of the tree up to date, with times in whole seconds, which is what an image keeps.

    Compiled code stays with its file, and is good as long as that keeps its time.
    """
    names = tree_files()
    for path in COPY.rglob("*"):
        known = "__pycache__" in path.parts or str(path.relative_to(COPY)) in names
        if path.is_file() and not known:
            path.unlink()
    for name in names:
        (COPY / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TREE / name, COPY / name)
        changed = int((TREE / name).stat().st_mtime)
        os.utime(COPY / name, (changed, changed))
    (COPY / ".venv").mkdir(exist_ok=True)


def tree(warm: Callable[[], None]) -> None:
    """Copy the tree, compile what its tests need for the emulated processor, and make its disk."""
    copy_tree()
    warm()
    disk(COPY, CACHE / "tree.img", 300)


def build(warm: Callable[[], None]) -> None:
    """Make what is missing or has changed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    step("debian", PACKAGES, debootstrap)
    step("kernels", (PACKAGES, MODULES), kernels)
    lock = hashlib.sha256((TREE / "requirements.lock").read_bytes()).hexdigest()
    key = PACKAGES, MODULES, sys.version, *map(str, python_folders()), lock, (HERE / "init").read_text()
    step("packages", key, packages)
    step("root", key, lambda: disk(DEBIAN, CACHE / "root.img", 500))
    step("tree", tree_digest(), lambda: tree(warm))
