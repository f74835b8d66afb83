"""Runs inside a canary container, alone, with nothing but the standard library; prints what it could do as one JSON
object {feature: [held, detail]}. Started by canary.py as `python -I -S probe.py`."""

import ctypes
import errno
import json
import os
import socket

AF_VSOCK = 40
CLONE_NEWUSER = 0x10000000
SYS_IO_URING_SETUP, SYS_PTRACE, SYS_KEYCTL = 425, 101, 250
libc = ctypes.CDLL(None, use_errno=True)
found = {}


def refused(name, act, *expected):
    """The feature holds when the act fails with one of these errors."""
    try:
        act()
        found[name] = [False, "was possible"]
    except OSError as error:
        found[name] = [error.errno in expected, os.strerror(error.errno)]


def syscall(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")


def in_child(act):
    """What would change this process too much to go on with where it is possible."""

    def run():
        pid = os.fork()
        if pid == 0:
            try:
                act()
                os._exit(0)
            except OSError as error:
                os._exit(error.errno or 255)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code > 0:
            raise OSError(code, "")

    return run


def fill(path, limit):
    def act():
        with open(path, "wb", buffering=0) as file:
            for _ in range(limit >> 20):
                file.write(bytes(1 << 20))

    return act


def fork_many():
    children = []
    read, write = os.pipe()
    try:
        for _ in range(200):
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


status = dict(line.rstrip("\n").split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
capabilities = {key: status[key].strip() for key in status if key.startswith("Cap")}
found["no-capabilities"] = [all(int(value, 16) == 0 for value in capabilities.values()), str(capabilities)]
found["no-new-privileges"] = [status["NoNewPrivs"].strip() == "1", status["NoNewPrivs"].strip()]
found["seccomp"] = [status["Seccomp"].strip() == "2", status["Seccomp"].strip()]
uid_map = open("/proc/self/uid_map").read().split()
found["user-namespace"] = [uid_map[:2] != ["0", "0"] and uid_map[1] != "0", " ".join(uid_map)]
interfaces = sorted(os.listdir("/sys/class/net"))
found["network-none"] = [interfaces == ["lo"], " ".join(interfaces)]
# Python itself adds LC_CTYPE where no locale is set.
environment = {key: value for key, value in os.environ.items() if key != "LC_CTYPE"}
found["exact-environment"] = [environment == {"PROBE": "1", "HOME": "/tmp"}, " ".join(os.environ)]
found["hostname"] = [socket.gethostname() == "animus", socket.gethostname()]
denied = (errno.EPERM, errno.ENOSYS, errno.EACCES, errno.EAFNOSUPPORT)
if found["network-none"][0]:

    def connect():
        socket.create_connection(("192.0.2.1", 9), 1).close()

    refused("network-none", connect, errno.ENETUNREACH)
refused("vsock-blocked", lambda: socket.socket(AF_VSOCK, socket.SOCK_STREAM), *denied)
refused("raw-socket-blocked", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 6), *denied)
refused("unshare-blocked", in_child(lambda: syscall(272, CLONE_NEWUSER)), errno.EPERM)
refused("io-uring-blocked", lambda: syscall(SYS_IO_URING_SETUP, 1, 0), errno.EPERM)
refused("ptrace-blocked", in_child(lambda: syscall(SYS_PTRACE, 0, 0, 0, 0)), errno.EPERM)
refused("keyctl-blocked", lambda: syscall(SYS_KEYCTL, 0, -3, 0), errno.EPERM)
refused("device-nodes-blocked", lambda: os.mknod("/tmp/d", 0o20666, os.makedev(1, 3)), errno.EPERM)
refused("read-only-root", lambda: open("/x", "w"), errno.EROFS, errno.EACCES)
refused("tmp-limit", fill("/tmp/x", 64 << 20), errno.ENOSPC)
refused("output-quota", fill("/animus/outputs/canary/x", 256 << 20), errno.ENOSPC, errno.EDQUOT)
refused("pids-limit", fork_many, errno.EAGAIN)
print(json.dumps(found))
