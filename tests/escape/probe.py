"""Tries to get out. Runs in a container, or as a control where nothing holds it, with the standard library alone.

`python -I -S probe.py '[["case", {arguments}], …]'` prints one JSON line for each case: {case, possible, how}. A case
returns what it managed to do, or raises OSError with what stopped it. Nothing here does harm where it succeeds: files
that steer the machine are opened and not written, calls get arguments that the kernel refuses once it has permitted them.

Over 400 lines because it is all that the container has.
"""

import ctypes
import errno
import json
import mmap
import os
import signal
import socket
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
CASES = {}
NULL = ctypes.c_void_p(0)


def case(function):
    CASES[function.__name__.replace("_", "-")] = function
    return function


def syscall(number, *arguments, fine=()):
    """`fine`: errors that the kernel gives only to those who may call."""
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = libc.syscall(ctypes.c_long(number), *wide)
    if result < 0 and ctypes.get_errno() not in fine:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return f"returned {result}" if result >= 0 else f"permitted: {errno.errorcode[ctypes.get_errno()]}"


def in_child(act):
    """What a child that runs `act` says; a child that a signal ended raises OSError with the signal's name."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, json.dumps([0, str(act())]).encode())
        except OSError as error:
            os.write(write, json.dumps([error.errno or 5, str(error)]).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        data = pipe.read()
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        raise Killed(signal.Signals(os.WTERMSIG(status)).name)
    code, text = json.loads(data)
    if code:
        raise OSError(code, text)
    return text


class Killed(Exception):
    pass


def can_open(*paths, flags=os.O_WRONLY):
    """The first that opens; the last error where none does. Nothing is written."""
    last = OSError(errno.ENOENT, "nothing there")
    for path in paths:
        try:
            os.close(os.open(path, flags | os.O_CLOEXEC))
            return f"opened {path}"
        except OSError as error:
            last = error if error.errno != errno.ENOENT or last.errno == errno.ENOENT else last
    raise last


# The network.


@case
def connect_to(addresses):
    for host, port in addresses:
        try:
            socket.create_connection((host, port), 3).close()
            return f"connected to {host}:{port}"
        except OSError as error:
            last = error
    raise last


@case
def abstract_socket(name):
    client = socket.socket(socket.AF_UNIX)
    client.connect("\0" + name)
    return "connected"


@case
def raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    return "opened"


@case
def packet_socket():
    socket.socket(17, socket.SOCK_RAW, socket.htons(3))
    return "opened"


@case
def vsock():
    socket.socket(40, socket.SOCK_STREAM)
    return "opened"


@case
def crypto_socket():
    socket.socket(38, socket.SOCK_SEQPACKET)
    return "opened"


@case
def netlink_beyond_routes():
    # NETLINK_KOBJECT_UEVENT: the machine's devices; NETLINK_NETFILTER: its packet filter.
    for protocol in (15, 12):
        socket.socket(16, socket.SOCK_RAW, protocol)
    return "opened"


@case
def other_protocols():
    """What the kernel would load a module for: DCCP, SCTP, UDP-Lite, MPTCP."""
    last = OSError(errno.ENOSYS, "")
    for family in (2, 10):
        for kind, protocol in ((6, 33), (1, 132), (2, 136), (1, 262)):
            try:
                socket.socket(family, kind, protocol).close()
                return f"opened protocol {protocol}"
            except OSError as error:
                last = error
    raise last


@case
def other_families():
    opened = []
    last = OSError(errno.ENOSYS, "")
    for family in range(46):
        if family in (1, 2, 10, 16):
            continue
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
            try:
                socket.socket(family, kind).close()
                opened.append(family)
                break
            except OSError as error:
                last = error
    if opened:
        return f"opened {opened}"
    raise last


# Calls.


@case
def mount_tmpfs():
    return syscall(165, b"none", b"/dev/mqueue", b"tmpfs", 0, NULL)


@case
def remount_root():
    return syscall(165, b"none", b"/", NULL, 32 | 4096, NULL)  # MS_REMOUNT | MS_BIND, and not read-only


@case
def new_mount_api():
    return syscall(430, b"tmpfs", 0)  # fsopen


@case
def open_tree():
    return syscall(428, -100, b"/", 1)  # OPEN_TREE_CLONE


@case
def umount():
    return syscall(166, b"/dev/mqueue", 2)


@case
def pivot_root():
    return syscall(155, b"/nowhere", b"/nowhere", fine=(errno.ENOENT,))


@case
def chroot():
    return in_child(lambda: syscall(161, b"/tmp"))


@case
def unshare_user():
    return in_child(lambda: syscall(272, 0x10000000))


@case
def unshare_mount_and_network():
    return in_child(lambda: syscall(272, 0x00020000 | 0x40000000))


@case
def clone_user_namespace():
    result = libc.syscall(ctypes.c_long(56), ctypes.c_long(0x10000000 | signal.SIGCHLD), NULL, NULL, NULL, NULL)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if result == 0:
        os._exit(0)
    os.waitpid(result, 0)
    return "cloned"


@case
def clone3():
    # struct clone_args, version 0: flags first, exit_signal fifth.
    arguments = (ctypes.c_uint64 * 8)(0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    result = libc.syscall(ctypes.c_long(435), arguments, ctypes.c_long(64))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if result == 0:
        os._exit(0)
    os.waitpid(result, 0)
    return "cloned"


@case
def setns():
    with open("/proc/self/ns/uts") as file:
        return in_child(lambda: syscall(308, file.fileno(), 0))


@case
def ptrace():
    return in_child(lambda: syscall(101, 0, 0, 0, 0))  # PTRACE_TRACEME


@case
def read_other_memory():
    local = ctypes.create_string_buffer(8)
    remote = ctypes.create_string_buffer(b"foreign", 8)
    vectors = [(ctypes.c_void_p * 2)(ctypes.addressof(one), 8) for one in (local, remote)]
    return syscall(310, os.getpid(), vectors[0], 1, vectors[1], 1, 0)


@case
def steal_descriptor():
    with open("/proc/self/status") as file:
        pidfd = os.pidfd_open(os.getpid())
        return syscall(438, pidfd, file.fileno(), 0)


@case
def compare_processes():
    return syscall(312, os.getpid(), os.getpid(), 0, 0, 0)


@case
def keyrings():
    return syscall(250, 0, -3, 1)  # KEYCTL_GET_KEYRING_ID of the session's


@case
def add_key():
    return syscall(248, b"user", b"animus-probe", b"x", 1, -1)  # in the thread's own keyring


@case
def io_uring():
    return syscall(425, 1, (ctypes.c_char * 120)())


@case
def bpf():
    # BPF_MAP_CREATE of an array with one entry.
    return syscall(321, 0, (ctypes.c_uint32 * 18)(2, 4, 4, 1), 72)


@case
def perf_events():
    # A software clock of this very process: type 1, size 64, config 0.
    attributes = (ctypes.c_uint32 * 32)(1, 64)
    return syscall(298, attributes, 0, -1, -1, 0)


@case
def userfaultfd():
    return syscall(323, 1)  # UFFD_USER_MODE_ONLY, which needs no privilege


@case
def file_handles():
    handle, mount_id = (ctypes.c_uint32 * 34)(128), ctypes.c_int()
    syscall(303, -100, b"/tmp", handle, ctypes.byref(mount_id), 0)
    root = os.open("/tmp", os.O_RDONLY)
    return syscall(304, root, handle, os.O_RDONLY)


@case
def personality():
    return in_child(lambda: syscall(135, 0x0040000))


@case
def fanotify():
    return syscall(300, 0, 0)


@case
def local_descriptor_table():
    return syscall(154, 0, (ctypes.c_char * 16)(), 16)


@case
def io_ports():
    return in_child(lambda: syscall(172, 3))


@case
def kernel_module():
    # An image of no bytes: only who may load modules hears that it is none.
    return syscall(175, b"", 0, b"", fine=(errno.ENOEXEC, errno.EINVAL, errno.EFAULT))


@case
def kexec():
    return syscall(246, 0, 0, NULL, 0x7FFF0000, fine=(errno.EINVAL,))


@case
def reboot():
    return syscall(169, 0, 0, 0, NULL, fine=(errno.EINVAL,))  # wrong magic


@case
def swap():
    return syscall(167, b"/nowhere", 0, fine=(errno.ENOENT,))


@case
def set_time():
    # ADJ_SETOFFSET by nothing.
    return syscall(305, 0, (ctypes.c_long * 32)(0x0100))


@case
def host_name():
    name = os.uname().nodename.encode()
    return syscall(170, name, len(name))  # to what it is


@case
def kernel_log():
    return syscall(103, 10, NULL, 0)  # the size of the kernel's own messages


@case
def accounting():
    return syscall(163, b"/nowhere", fine=(errno.ENOENT,))


@case
def disk_quota():
    return syscall(
        179,
        0x800002 << 8 & 0x7FFFFFFF,
        b"/nowhere",
        0,
        NULL,
        fine=(errno.ENOENT, errno.ENODEV, errno.EINVAL, errno.ENOTBLK),
    )


def _machine_code(code):
    """Runs bytes as a function of no arguments, in a child."""

    def act():
        memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        memory.write(code)
        function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
        result = function()
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return f"returned {result}"

    return in_child(act)


@case
def calls_of_32_bits():
    # mov eax, 20 (getpid of i386); int 0x80; ret
    return _machine_code(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")


@case
def calls_of_x32():
    # mov eax, 0x40000000 + 39 (getpid of x32); syscall; ret
    return _machine_code(b"\xb8\x27\x00\x00\x40\x0f\x05\xc3")


# Files of the kernel and the machine.


@case
def proc_writes():
    return can_open(
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname",
        "/proc/sys/vm/overcommit_memory", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/ns_last_pid",
        "/proc/irq/default_smp_affinity", "/proc/sys/fs/binfmt_misc/register", "/proc/sys/user/max_user_namespaces",
    )  # fmt: skip


@case
def sysrq():
    return can_open("/proc/sysrq-trigger")


@case
def kernel_memory():
    return can_open("/proc/kcore", "/dev/mem", "/dev/kmem", flags=os.O_RDONLY) + _bytes("/proc/kcore")


def _bytes(path):
    # What is masked is an empty file that opens.
    with open(path, "rb", buffering=0) as file:
        if not file.read(1):
            raise OSError(errno.ENODATA, "empty")
    return ", with content"


@case
def oom_protection():
    with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
        file.write(b"-1000")
    return "no longer killed first"


@case
def sys_writes():
    return can_open(
        "/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/power/state",
        "/sys/module/kernel/parameters/panic", "/sys/kernel/profiling", "/sys/class/net/lo/ifalias",
        "/sys/devices/system/cpu/cpu1/online",
    )  # fmt: skip


@case
def cgroup_writes():
    for folder, _, files in os.walk("/sys/fs/cgroup"):
        for name in files:
            if name in ("release_agent", "cgroup.procs", "memory.limit_in_bytes", "memory.max", "devices.allow"):
                return can_open(os.path.join(folder, name))
    # None is mounted; then make one, and set its release_agent.
    return syscall(165, b"none", b"/dev/mqueue", b"cgroup2", 0, NULL)


@case
def read_only_root():
    with open("/animus-probe", "w"):
        pass
    os.unlink("/animus-probe")
    return "wrote to /"


@case
def device_nodes():
    os.mknod("/tmp/probe-device", 0o20666, os.makedev(1, 1))
    return "made a node of /dev/mem"


@case
def open_devices(usual):
    """Every device node that there is, beyond the harmless ones."""
    opened = []
    for folder, folders, files in os.walk("/dev"):
        folders[:] = [name for name in folders if name not in ("pts", "shm", "mqueue")]
        for name in files:
            path = os.path.join(folder, name)
            if name not in usual and not os.path.islink(path):
                try:
                    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                    opened.append(name)
                except OSError:
                    continue
    if opened:
        return f"opened {sorted(opened)[:5]}"
    raise OSError(errno.ENODEV, f"only {sorted(usual)}")


@case
def block_device(major, minor):
    os.mknod("/tmp/probe-disk", 0o60600, os.makedev(major, minor))
    with open("/tmp/probe-disk", "rb") as file:
        file.read(1)
    return "read a disk of the host"


@case
def setuid(path):
    """A program of the image that was setuid root, and one made here."""
    mode = os.stat(path).st_mode
    data = open(path, "rb").read()
    with open("/tmp/suid", "wb") as file:
        file.write(data)
    os.chmod("/tmp/suid", 0o6755)
    for program in (path, "/tmp/suid"):
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            os.dup2(write, 1)
            os.setresuid(*[os.getuid() or 65532] * 3)
            os.execv(program, ["python", "-I", "-S", "-c", "import os; print(os.geteuid())"])
        os.close(write)
        told = open(read).read().strip()
        os.waitpid(pid, 0)
        if told == "0":
            return f"{program} runs as root"
    raise OSError(errno.EPERM, f"mode {mode & 0o7777:o}, no new privileges, nosuid")


@case
def become_root():
    os.setresuid(0, 0, 0)
    return "uid 0"


@case
def overwrite_runtime():
    """The program that we are, once nobody runs it any more: how CVE-2019-5736 replaced the runtime's. Does not return;
    what it becomes prints the line."""
    os.dup2(os.open("/proc/self/exe", os.O_PATH), 9)
    line = '{"case": "overwrite-runtime", "possible": %s, "how": "%s"}'
    script = f"if (: >> /proc/self/fd/9) 2> /tmp/why; then echo '{line % ('true', 'opened for writing')}'; "
    script += f"else echo '{line % ('false', 'EROFS')}' | sed \"s/EROFS/$(sed 's/.*: //' /tmp/why)/\"; fi"
    os.execv("/bin/busybox", ["sh", "-c", script])


@case
def leaked_descriptors():
    """Descriptors and folders of whoever made us (CVE-2024-21626)."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if int(name) > 2 and target not in ("/proc/self/fd", f"/proc/{os.getpid()}/fd"):
            found.append(f"{name} -> {target}")
        elif int(name) <= 2 and not target.startswith(("pipe:", "/dev/null")):
            found.append(f"{name} -> {target}")
    if found:
        return ", ".join(found)
    if not os.getcwd().startswith("/"):
        return f"outside of the root, in {os.getcwd()}"
    raise OSError(errno.EBADF, "0, 1 and 2 alone")


@case
def push_terminal_input():
    """TIOCSTI: keys for whoever reads the terminal that started us."""
    import fcntl

    for fd in (0, 1, 2):
        try:
            fcntl.ioctl(fd, 0x5412, b"x")
            return f"typed into {fd}"
        except OSError:
            continue
    fd = os.open("/dev/tty", os.O_RDWR)
    fcntl.ioctl(fd, 0x5412, b"x")
    return "typed into /dev/tty"


@case
def foreign_files(paths):
    """Paths of the host: another attempt's folder, the agent's own."""
    roots = ["", "/proc/1/root", "/animus/..", "/animus/outputs/../../..", "/proc/self/cwd/../../../.."]
    return can_open(*[root + path for root in roots for path in paths], flags=os.O_RDONLY)


@case
def kill_outside(pids):
    """Processes of the host, by their numbers there; then everybody."""
    last = OSError(errno.ESRCH, "")
    for pid in pids:
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if b"animus-victim" not in file.read():
                    continue  # somebody of our own who has that number here
            os.kill(pid, signal.SIGKILL)
            return f"killed {pid}"
        except OSError as error:
            last = error
    if os.getpid() == 1:
        # In a pid namespace of our own: everybody is nobody else.
        try:
            os.kill(-1, signal.SIGTERM)
        except OSError as error:
            last = error
    raise last


# More than its share.


@case
def fork_bomb(count):
    children = []
    read, write = os.pipe()
    try:
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                os.close(write)
                os.read(read, 1)
                os._exit(0)
            children.append(pid)
    finally:
        os.close(write)
        for pid in children:
            os.waitpid(pid, 0)
    return f"{count} processes"


@case
def memory_bomb(size):
    held = []
    while len(held) << 20 < size:
        held.append(bytearray(os.urandom(4096) * 256))
    return f"{len(held)} MiB"


@case
def fill(path, size):
    written = 0
    piece = os.urandom(1 << 16)
    with open(path, "wb", buffering=0) as file:
        while written < size:
            written += file.write(piece)
    return f"{written} bytes"


@case
def many_files(folder, count):
    for number in range(count):
        os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_WRONLY))
    return f"{count} files"


@case
def flood_log(size):
    line = b"x" * 1023 + b"\n"
    for _ in range(size // len(line)):
        os.write(1, line)
    return f"{size} bytes"


@case
def many_descriptors(count):
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
    return f"{len(held)} descriptors"


@case
def dump_core():
    """A core file, or a helper of the host that is started with one."""
    import resource

    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
        except ValueError:
            raise OSError(errno.EPERM, "not allowed to raise the limit") from None
    return "cores are written"


@case
def realtime():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return "before everybody else"


@case
def spin(seconds):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return f"{seconds} s"


# Outputs that are no plain files.


@case
def output(kind, folder, target):
    path = f"{folder}/x"
    with open(f"{folder}/plain", "w") as file:
        file.write("plain")
    if kind == "symlink":
        os.symlink(target, path)
    elif kind == "folder-symlink":
        os.symlink(os.path.dirname(target), path)
    elif kind == "hard-link":
        with open(f"{folder}/y", "w") as file:
            file.write("y")
        os.link(f"{folder}/y", path)
    elif kind == "hard-link-to-ours":
        os.link(target, path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(path)
    elif kind == "setuid":
        with open(path, "w") as file:
            file.write("#!/bin/sh\nid\n")
        os.chmod(path, 0o6755)
    elif kind == "replaced-folder":
        os.rename(folder, folder + "-gone")
        os.symlink(target, folder)
    return f"left a {kind}"


def main():
    stopped = 0
    for name, arguments in json.loads(sys.argv[1]):
        try:
            told = {"possible": True, "how": str(CASES[name](**arguments))}
        except Killed as error:
            told = {"possible": False, "how": str(error)}
        except OSError as error:
            code = errno.errorcode.get(error.errno or 0, "")
            told = {"possible": False, "how": code or str(error)}
        except MemoryError:
            told = {"possible": False, "how": "ENOMEM"}
        # One write, so that a line is whole whatever the case left behind.
        os.write(1, (json.dumps({"case": name, **told}) + "\n").encode())
        stopped += not told["possible"]
    # A step that ran into a limit does not call itself a success.
    sys.exit(1 if stopped and "exit" in sys.argv[2:] else 0)


if __name__ == "__main__":
    main()
