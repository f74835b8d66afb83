"""NVIDIA's management library by its C interface (nvml.h, API version 2), without a package for it.

A device is left out while its driver reports that its memory or the device itself has failed: a GPU that miscounts is
worse than one that is away. XID errors are kept from the moment they are told (the driver forgets them); they and the
volatile ECC counters end with a reset of the device, that is with a restart of this agent after it.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable

from animus_agent.gpu.devices import GpuDevice, Gpus, is_uuid

# nvmlReturn_t
_NOT_SUPPORTED, _GPU_IS_LOST = 3, 15
_XID_EVENT = 8  # nvmlEventTypeXidCriticalError
_UNCORRECTED, _VOLATILE = 1, 0
_TEXT = 256
# What a program did wrong, not its device (docs.nvidia.com/deploy/xid-errors): the next program is not concerned.
APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
MAX_EVENTS = 1024


class _Event(ctypes.Structure):
    """nvmlEventData_t"""

    _fields_ = (
        ("device", ctypes.c_void_p),
        ("type", ctypes.c_ulonglong),
        ("data", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class NvmlError(OSError):
    """A call that failed. `code`: NVML's."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what}: error {code}")
        self.code = code


class NvmlInventory:
    """`library` may be replaced by a fake one in tests. Used by one thread at a time."""

    def __init__(self, library: str = "libnvidia-ml.so.1") -> None:
        self._library = library
        self._nvml: ctypes.CDLL | None = None
        self._events: ctypes.c_void_p | None = None
        self._watched: set[str] = set()
        # UUID → the XID that was told of it.
        self._xids: dict[str, int] = {}

    def read(self) -> Gpus:
        try:
            nvml = self._open()
            self._drain(nvml)
            return self._read(nvml)
        except (OSError, AttributeError) as error:
            return Gpus(reason=str(error))

    def close(self) -> None:
        if self._nvml is not None:
            if self._events is not None:
                self._nvml.nvmlEventSetFree(self._events)
            self._nvml.nvmlShutdown()
        self._nvml = self._events = None

    def _open(self) -> ctypes.CDLL:
        if self._nvml is not None:
            return self._nvml
        try:
            nvml = ctypes.CDLL(self._library)
        except OSError:
            raise OSError(f"no NVIDIA driver: {self._library} is not installed") from None
        if code := nvml.nvmlInit_v2():
            raise NvmlError("NVML does not start", code)
        events = ctypes.c_void_p()
        # Optional on some platforms; without it the counters below still tell.
        if _optional(nvml, "nvmlEventSetCreate")(ctypes.byref(events)) == 0:
            self._events = events
        self._nvml = nvml
        return nvml

    def _read(self, nvml: ctypes.CDLL) -> Gpus:
        count = ctypes.c_uint()
        _ok(nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)), "nvmlDeviceGetCount")
        driver = _text(lambda buffer: nvml.nvmlSystemGetDriverVersion(buffer, _TEXT))
        version = ctypes.c_int()
        cuda = ""
        if _optional(nvml, "nvmlSystemGetCudaDriverVersion_v2")(ctypes.byref(version)) == 0:
            cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
        found, lost = [], []
        for index in range(count.value):
            handle = ctypes.c_void_p()
            # A device that fell off the bus has no handle any more, and so no UUID: the others go on.
            code = nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
            if code:
                lost.append(f"device {index} has no handle: error {code}")
                continue
            device = self._device(nvml, handle, driver, cuda)
            if device is None:
                lost.append(f"device {index} does not tell a usable UUID")
            else:
                found.append(device)
        # By UUID: indexes change with a reboot.
        return Gpus(tuple(sorted(found, key=lambda gpu: gpu.uuid)), reason="; ".join(lost))

    def _device(self, nvml: ctypes.CDLL, handle: ctypes.c_void_p, driver: str, cuda: str) -> GpuDevice | None:
        try:
            uuid = _text(lambda buffer: nvml.nvmlDeviceGetUUID(handle, buffer, _TEXT))
        except NvmlError:
            return None
        if not is_uuid(uuid):
            return None
        self._watch(nvml, handle, uuid)
        model, memory, minor = "unknown", 0, None
        try:
            model = _text(lambda buffer: nvml.nvmlDeviceGetName(handle, buffer, _TEXT))
            minor = _number(lambda number: nvml.nvmlDeviceGetMinorNumber(handle, number))
            sizes = (ctypes.c_ulonglong * 3)()  # nvmlMemory_t: total, free, used
            _ok(nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(sizes)), "nvmlDeviceGetMemoryInfo")
            memory = sizes[0]
            trouble = self._trouble(nvml, handle, uuid)
        except NvmlError as error:
            trouble = "the device is lost" if error.code == _GPU_IS_LOST else str(error)
        return GpuDevice(uuid, model, memory, driver, cuda, minor, trouble=trouble)

    def _trouble(self, nvml: ctypes.CDLL, handle: ctypes.c_void_p, uuid: str) -> str:
        if (xid := self._xids.get(uuid)) is not None:
            return f"XID {xid}"
        errors = ctypes.c_ulonglong()
        code = _optional(nvml, "nvmlDeviceGetTotalEccErrors")(handle, _UNCORRECTED, _VOLATILE, ctypes.byref(errors))
        if _supported(code, "nvmlDeviceGetTotalEccErrors") and errors.value:
            return f"{errors.value} uncorrected memory errors since the driver was loaded"
        rows = [ctypes.c_uint() for _ in range(4)]  # corrected, uncorrected, pending, failed
        code = _optional(nvml, "nvmlDeviceGetRemappedRows")(handle, *(ctypes.byref(row) for row in rows))
        if _supported(code, "nvmlDeviceGetRemappedRows"):
            if rows[3].value:
                return "a memory row could not be remapped"
            if rows[2].value:
                return "a memory row waits to be remapped: reset the device"
        current, pending = ctypes.c_uint(), ctypes.c_uint()
        code = _optional(nvml, "nvmlDeviceGetMigMode")(handle, ctypes.byref(current), ctypes.byref(pending))
        if _supported(code, "nvmlDeviceGetMigMode") and (current.value or pending.value):
            return "MIG mode is on: only whole devices are given"
        return ""

    def _watch(self, nvml: ctypes.CDLL, handle: ctypes.c_void_p, uuid: str) -> None:
        """Hears of XIDs from now on."""
        if self._events is not None and uuid not in self._watched:
            self._watched.add(uuid)
            nvml.nvmlDeviceRegisterEvents(handle, ctypes.c_ulonglong(_XID_EVENT), self._events)

    def _drain(self, nvml: ctypes.CDLL) -> None:
        """Takes what was told since, without waiting."""
        for _ in range(MAX_EVENTS if self._events is not None else 0):
            event = _Event()
            if nvml.nvmlEventSetWait_v2(self._events, ctypes.byref(event), ctypes.c_uint(0)):
                return
            if event.type != _XID_EVENT or event.data in APPLICATION_XIDS:
                continue
            with contextlib.suppress(NvmlError):
                handle = ctypes.c_void_p(event.device)
                uuid = _text(lambda buffer, h=handle: nvml.nvmlDeviceGetUUID(h, buffer, _TEXT))
                self._xids.setdefault(uuid, event.data)


def _optional(nvml: ctypes.CDLL, name: str) -> Callable[..., int]:
    """A function that older drivers do not have; then it answers that this is not supported."""
    return getattr(nvml, name, None) or (lambda *_: _NOT_SUPPORTED)


def _ok(code: int, what: str) -> None:
    if code:
        raise NvmlError(what, code)


def _supported(code: int, what: str) -> bool:
    """False where this device has no such thing. Raises NvmlError for any other failure."""
    if code == _NOT_SUPPORTED:
        return False
    _ok(code, what)
    return True


def _text(call: Callable[[ctypes.Array], int]) -> str:
    buffer = ctypes.create_string_buffer(_TEXT)
    _ok(call(buffer), "NVML text")
    return buffer.value.decode("utf-8", "replace")


def _number(call: Callable[[object], int]) -> int | None:
    number = ctypes.c_uint()
    return number.value if call(ctypes.byref(number)) == 0 else None
