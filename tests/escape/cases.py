"""The cases: what is tried, what must stop it, and where that must be seen.

Each has a control: the same probe where the protection is missing must succeed, so that no case is green because its
probe is broken. `bare`: a container of the same driver with everything taken off. `host`, `pty`, `leak`, `netns`: a
process outside, with a terminal, with an inherited descriptor, in a network where the destination is. `room`: the same
step under wider limits, or asking for less.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from animus_agent.testing import limits

MIB = 1 << 20
CALL = ("EPERM", "ENOSYS")


@dataclass(frozen=True)
class Case:
    """`stopped`: errors or signals of which the probe names one; empty when it does not live to say so. `failure`: the
    attempt's (class, reason), or None where the step goes on. `counter`: one of the report that must not be 0.
    Arguments that start with @ are the host's (conftest.py). `exits`: the step fails when the probe was stopped.
    `needs`: a capability without which the control shows nothing; a container's root often lacks it."""

    name: str
    tried: str
    stopped: tuple[str, ...] = CALL
    probe: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    failure: tuple[str, str] | None = None
    counter: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    exits: bool = False
    control: str = "bare"
    needs: str = ""
    room: dict[str, Any] = field(default_factory=dict)
    room_arguments: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


NETWORK = [
    Case("metadata-address", "connect to 169.254.169.254:80", ("ENETUNREACH",), "connect-to",
         {"addresses": [("169.254.169.254", 80)]}, control="netns"),
    Case("host-network", "connect to a listener of the host", ("ECONNREFUSED", "ENETUNREACH"), "connect-to",
         {"addresses": "@listener"}, control="host"),
    Case("host-abstract-socket", "connect to an abstract Unix socket of the host", ("ECONNREFUSED",), "abstract-socket",
         {"name": "@abstract"}, control="host"),
    Case("raw-socket", "open a raw socket", ("EPERM",)),
    Case("packet-socket", "open AF_PACKET"),
    Case("vsock", "open AF_VSOCK, which no network namespace confines"),
    Case("crypto-socket", "open AF_ALG"),
    Case("netlink-beyond-routes", "hear of the machine's devices by AF_NETLINK"),
    Case("other-protocols", "open SCTP, DCCP, UDP-Lite and MPTCP sockets"),
    Case("other-families", "open every other family of sockets"),
]  # fmt: skip

CALLS = [
    Case("mount-tmpfs", "mount"),
    Case("remount-root", "remount / writable"),
    Case("new-mount-api", "fsopen"),
    Case("open-tree", "open_tree, cloned"),
    Case("umount", "umount"),
    Case("pivot-root", "pivot_root"),
    Case("chroot", "chroot"),
    Case("unshare-user", "unshare a user namespace"),
    Case("unshare-mount-and-network", "unshare mount and network namespaces"),
    Case("clone-user-namespace", "clone with CLONE_NEWUSER"),
    Case("clone3", "clone3 with CLONE_NEWUSER, whose flags no filter sees", ("ENOSYS",)),
    Case("setns", "setns"),
    Case("ptrace", "ptrace"),
    Case("read-other-memory", "process_vm_readv"),
    Case("steal-descriptor", "pidfd_getfd"),
    Case("compare-processes", "kcmp"),
    Case("keyrings", "keyctl: the session's keyring"),
    Case("add-key", "add_key"),
    Case("io-uring", "io_uring_setup"),
    Case("bpf", "bpf: create a map"),
    Case("perf-events", "perf_event_open"),
    Case("userfaultfd", "userfaultfd"),
    Case("file-handles", "open_by_handle_at, which knows no mounts"),
    Case("personality", "personality: other rules for what it starts"),
    Case("fanotify", "fanotify_init"),
    Case("local-descriptor-table", "modify_ldt"),
    Case("io-ports", "iopl"),
    Case("kernel-module", "init_module"),
    Case("kexec", "kexec_load"),
    Case("reboot", "reboot"),
    Case("swap", "swapon"),
    Case("set-time", "clock_adjtime"),
    Case("host-name", "sethostname"),
    Case("kernel-log", "syslog: the kernel's messages"),
    Case("accounting", "acct"),
    Case("disk-quota", "quotactl"),
    Case("calls-of-32-bits", "int 0x80: another table of calls", ("SIGSYS", "SIGSEGV", "ENOSYS")),
    Case("calls-of-x32", "x32: the same calls under other numbers", ("SIGSYS", "ENOSYS")),
]

FILES = [
    Case("proc-writes", "open core_pattern and others of /proc for writing", ("EROFS", "EACCES")),
    # Not every kernel has these two.
    Case("sysrq", "open /proc/sysrq-trigger for writing", ("EROFS", "EACCES", "ENOENT")),
    Case("kernel-memory", "read /proc/kcore", ("ENODATA", "EACCES", "EPERM", "ENOENT")),
    Case("oom-protection", "lower oom_score_adj", ("EACCES", "EPERM"), needs="SYS_RESOURCE"),
    Case("sys-writes", "open uevent_helper and others of /sys for writing", ("EROFS", "EACCES")),
    Case("cgroup-writes", "write to a cgroup, or mount one and its release_agent", ("EROFS", "EACCES", "EPERM")),
    Case("read-only-root", "write to the image's root", ("EROFS", "EACCES")),
    Case("device-nodes", "make a node of /dev/mem", ("EPERM",)),
    Case("open-devices", "open any device beyond the harmless", ("ENODEV",),
         arguments={"usual": ["null", "zero", "full", "random", "urandom", "tty", "ptmx"]}, control="host"),
    Case("block-device", "make a node of a disk, and read it", ("EPERM",),
         arguments={"major": "@major", "minor": "@minor"}),
    Case("setuid", "run setuid root programs, the image's and home-made", ("EPERM",),
         arguments={"path": "/bin/was-setuid"}),
    Case("become-root", "setresuid(0)", ("EPERM", "EINVAL"), control="host"),
    Case("leaked-descriptors", "use what the runtime or the agent left open", ("EBADF",), control="leak"),
    Case("push-terminal-input", "TIOCSTI into the terminal that started us",
         ("ENOTTY", "ENXIO", "EIO", "EACCES"), control="pty"),
    Case("another-attempt", "read another attempt's folder, its outputs, the agent's keys", ("ENOENT", "EACCES"),
         "foreign-files", {"paths": "@foreign"}, control="host"),
    Case("kill-outside", "kill a process of the host, then everybody", ("ESRCH", "EPERM"),
         arguments={"pids": "@victims"}, control="host"),
    # The last of those that run in one container as controls: it becomes another program.
    Case("overwrite-runtime", "write to the program we were started from", ("Permission denied", "Read-only file system")),
]  # fmt: skip

RESOURCES = [
    Case("fork-bomb", "200 processes", ("EAGAIN",), arguments={"count": 200}, counter="pids-limit-hits",
         control="room", room={"limits": limits(pids=512)}),
    Case("memory-bomb", "512 MiB of memory", (), arguments={"size": 512 * MIB}, counter="oom-kills",
         failure=("OUT_OF_MEMORY", "OUT_OF_MEMORY"), control="room", room={"memory": 1024 * MIB}),
    Case("tmp-fill", "64 MiB into /tmp", ("ENOSPC",), "fill", {"path": "/tmp/x", "size": 64 * MIB}, control="room",
         room={"limits": limits(tmp_bytes=80 * MIB), "memory": 512 * MIB}),
    Case("shm-fill", "80 MiB into /dev/shm", ("ENOSPC",), "fill", {"path": "/dev/shm/x", "size": 80 * MIB},
         control="room", room={"memory": 512 * MIB}),
    Case("dev-fill", "8 MiB into /dev", ("ENOSPC", "EACCES", "EROFS"), "fill", {"path": "/dev/x", "size": 8 * MIB}),
    Case("output-fill", "128 MiB of outputs", ("ENOSPC",), "fill", {"path": "/animus/outputs/o/x", "size": 128 * MIB},
         ("DISK_LIMIT", "OUTPUT_VOLUME_FULL"), exits=True, changes={"outputs": ("o",)}, control="room",
         room={"limits": limits(output_bytes=256 * MIB)}),
    Case("work-folder-fill", "128 MiB beside the outputs", ("ENOSPC",), "fill", {"path": "/animus/x", "size": 128 * MIB},
         ("DISK_LIMIT", "OUTPUT_VOLUME_FULL"), exits=True, control="room",
         room={"limits": limits(output_bytes=256 * MIB)}),
    Case("inode-fill", "a million empty outputs", ("ENOSPC",), "many-files",
         {"folder": "/animus/outputs/o", "count": 1_000_000}, ("DISK_LIMIT", "OUTPUT_VOLUME_FULL"), exits=True,
         changes={"outputs": ("o",)}, control="room", room_arguments={"count": 100}),
    Case("too-many-outputs", "more files than the contract allows", (), "many-files",
         {"folder": "/animus/outputs/o", "count": 1001}, ("DISK_LIMIT", "OUTPUT_TOO_MANY_ENTRIES"),
         changes={"outputs": ("o",)}, control="room", room_arguments={"count": 999}),
    Case("log-flood", "32 MiB of log", (), "flood-log", {"size": 32 * MIB}, ("LOG_LIMIT", "LOG_LIMIT"), control="room",
         room_arguments={"size": MIB // 2}),
    Case("many-descriptors", "70,000 open files", ("EMFILE",), arguments={"count": 70_000}, control="room",
         room_arguments={"count": 500}),
    Case("dump-core", "write core files", ("EPERM",), control="host"),
    Case("realtime", "run before everybody else", ("EPERM",), control="host"),
    Case("run-for-ever", "spin for a minute, deaf to TERM", (), "spin", {"seconds": 60}, ("TIMEOUT", "TIMEOUT"),
         changes={"timeout": 1, "grace": 0}, control="room", room={"timeout": 30}, room_arguments={"seconds": 0.1}),
]  # fmt: skip


def _output(kind: str, tried: str, target: str, reason: str = "", stopped: tuple[str, ...] = ()) -> Case:
    arguments = {"kind": kind, "folder": "/animus/outputs/o", "target": target}
    failure = ("USER_ERROR", reason) if reason else None
    return Case(f"output-{kind}", tried, stopped, "output", arguments, failure, changes={"outputs": ("o",)},
                control="room", room_arguments={"kind": "setuid"})  # fmt: skip


OUTPUTS = [
    _output("symlink", "an output that links to a file of the host", "@secret", "OUTPUT_SYMLINK_REFUSED"),
    _output("folder-symlink", "an output that links to a folder of the host", "@secret", "OUTPUT_SYMLINK_REFUSED"),
    _output("hard-link", "an output with two names", "", "OUTPUT_HARD_LINK"),
    _output("fifo", "an output that nobody reads to its end", "", "OUTPUT_SPECIAL_FILE"),
    _output("socket", "an output that is a socket", "", "OUTPUT_SPECIAL_FILE"),
    _output("hard-link-to-ours", "a second name for a file of ours", "/animus/params.json",
            stopped=("EPERM", "EXDEV", "EACCES")),
    _output("replaced-folder", "a link in place of the output's folder", "/etc", stopped=("EPERM", "EACCES")),
]  # fmt: skip

CASES = [*NETWORK, *CALLS, *FILES, *RESOURCES, *OUTPUTS]
