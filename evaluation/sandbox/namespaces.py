"""Starts a program where it sees no network, no other process and no file but those that it is shown, read-only.

What bubblewrap does, for machines without it: user, mount, PID, network, IPC and UTS namespaces; a root on a small
tmpfs with what is shown mounted into it; an empty /tmp; no /proc; no capability left. Root becomes nobody first: its
processes would not be counted against RLIMIT_NPROC.

Arguments: SHOWN... -- PROGRAM ARGUMENT...; SHOWN are "path=where" or, for an empty folder in place of
one that is shown, "=where". Exit code 125 where the machine does not allow it, and one line on stderr says why. Killing
this process ends all that runs inside.
"""

import ctypes
import errno
import os
import select
import sys
from pathlib import Path

from evaluation.sandbox.inside.parent import die_with_parent

REFUSED = 125
NOBODY = 65534
SPACE = 64 << 20
"""Bytes that all files in /tmp may have together."""
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_NOATIME, _NODIRATIME, _RELATIME = 1 << 10, 1 << 11, 1 << 21
_DETACH = 2
_MOUNT_SETATTR, _AT_RECURSIVE = 442, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    shown, command = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    user, group, parent = os.getuid(), os.getgid(), os.getppid()
    try:
        _separate(user, group)
        die_with_parent()  # behind what changes credentials, which takes the wish back
    except OSError as error:
        sys.stderr.write(f"namespaces are not allowed here ({error.strerror})\n")
        return REFUSED
    if os.getppid() != parent:
        return REFUSED
    watched, alive = os.pipe()
    child = os.fork()
    if child:
        os.close(watched)
        for descriptor in (0, 1):  # the pipes are the child's: where it ends, their other ends must see it
            os.close(descriptor)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) & 0xFF
    os.close(alive)
    try:
        _build(Path("/tmp"), shown)
        _give_up(user)
        _end_with_parent(watched)
        os.execv(command[0], command)
    except OSError as error:
        sys.stderr.write(f"the sandbox cannot be built ({error})\n")
    os._exit(REFUSED)


def _separate(user: int, group: int) -> None:
    """Into new namespaces; the next child is the first process of its own."""
    apart = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
    if user == 0 and _libc.unshare(apart) == 0:
        return
    _checked(_libc.unshare(apart | _NEWUSER))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {group} 1")


def _build(root: Path, shown: list[str]) -> None:
    """A new root; root is any folder, which it covers for the time of its making."""
    _mount("none", "/", None, _REC | _PRIVATE)
    # The sources are opened first: one of them may lie in the folder that gets covered.
    sources = [
        (os.open(path, os.O_PATH) if path else -1, where) for path, _, where in (s.partition("=") for s in shown)
    ]
    _mount("tmpfs", str(root), "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    for source, where in sources:
        target = root / where.lstrip("/")
        if source < 0:
            if target.is_dir():
                _mount("tmpfs", str(target), "tmpfs", _NOSUID | _NODEV | _RDONLY, "size=4k,mode=755")
            continue
        path = f"/proc/self/fd/{source}"
        if Path(path).is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        _mount(path, str(target), None, _BIND | _REC)
        _read_only(str(target), device=where.startswith("/dev/"))
        os.close(source)
    inside = root / "tmp"
    inside.mkdir(exist_ok=True)
    _mount("tmpfs", str(inside), "tmpfs", _NOSUID | _NODEV | _NOEXEC, f"size={SPACE},nr_inodes=4096,mode=1777")
    _mount("none", str(root), None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)  # not what is mounted in it
    os.chdir(root)
    _checked(_libc.syscall(_pivot_root(), b".", b"."))
    _checked(_libc.umount2(b".", _DETACH))
    os.chdir("/tmp")


def _give_up(user: int) -> None:
    """Every capability and, of root, its name."""
    os.setsid()
    if user == 0 and os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    _checked(_libc.capset(header, (ctypes.c_uint32 * 6)()))
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _end_with_parent(watched: int) -> None:
    """Also where it ended before this was said: nobody holds the pipe's other end then."""
    die_with_parent()
    if select.select([watched], [], [], 0)[0]:
        os._exit(REFUSED)
    os.close(watched)


def _read_only(path: str, *, device: bool) -> None:
    """A mount and those below it, by mount_setattr(2); before Linux 5.12 by mounting again, with the flags that it has,
    which a user namespace may not take away, and without those below it."""
    attributes = _ATTR_RDONLY | _ATTR_NOSUID | (0 if device else _ATTR_NODEV)
    given = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    if not _libc.syscall(_MOUNT_SETATTR, -100, path.encode(), _AT_RECURSIVE, given, ctypes.sizeof(given)):
        return
    if ctypes.get_errno() != errno.ENOSYS:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    has = os.statvfs(path).f_flag
    kept = has & (_NOEXEC | _NODEV | _NOATIME | _NODIRATIME) | (_RELATIME if has & os.ST_RELATIME else 0)
    _mount("none", path, None, _BIND | _REMOUNT | _RDONLY | _NOSUID | kept | (0 if device else _NODEV))


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    given = kind.encode() if kind else None
    _checked(_libc.mount(source.encode(), target.encode(), given, ctypes.c_ulong(flags), data.encode() or None))


def _pivot_root() -> int:
    return 155 if os.uname().machine == "x86_64" else 41


def _checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
