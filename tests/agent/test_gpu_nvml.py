"""NVML by its C interface, against a small library of the same symbols that is built here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from animus_agent.gpu.nvml import NvmlInventory

FAKE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* Devices are the numbers 1 and 2. What is wrong with them comes from the environment. */
static int told(const char *name) { const char *v = getenv(name); return v ? atoi(v) : 0; }
static long number(void *device) { return (long)device; }
int nvmlInit_v2(void) { return told("FAKE_INIT"); }
int nvmlShutdown(void) { return 0; }
#ifndef OLD
int nvmlEventSetCreate(void **set) { *set = (void *)7; return 0; }
#endif
int nvmlEventSetFree(void *set) { return 0; }
int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) { return 3; }
int nvmlEventSetWait_v2(void *set, void *event, unsigned timeout) {
  static int given = 0;
  if (given || !told("FAKE_XID")) return 10;
  given = 1;
  memset(event, 0, 32);
  *(void **)event = (void *)2;
  ((unsigned long long *)event)[1] = 8;
  ((unsigned long long *)event)[2] = told("FAKE_XID");
  return 0;
}
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "580.159.04"); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13000; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  /* Indexes run against UUIDs, as they may. */
  *device = (void *)(long)(2 - index);
  return told("FAKE_NO_HANDLE") == 2 - (int)index ? 15 : 0;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
  snprintf(text, size, "GPU-0000000%ld", number(device)); return 0; }
int nvmlDeviceGetName(void *device, char *text, unsigned size) { snprintf(text, size, "NVIDIA H200"); return 0; }
int nvmlDeviceGetMinorNumber(void *device, unsigned *minor) { *minor = number(device) - 1; return 0; }
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *memory) {
  if (told("FAKE_LOST") == number(device)) return 15;
  memory[0] = 150754820096ULL; return 0; }
#ifndef OLD
int nvmlDeviceGetTotalEccErrors(void *device, int kind, int counter, unsigned long long *count) {
  *count = told("FAKE_ECC") == number(device) ? 3 : 0; return kind == 1 && counter == 0 ? 0 : 2; }
int nvmlDeviceGetRemappedRows(void *device, unsigned *c, unsigned *u, unsigned *pending, unsigned *failed) {
  *c = *u = *failed = 0; *pending = told("FAKE_ROWS") == number(device); return 0; }
int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
  *current = *pending = told("FAKE_MIG") == number(device); return told("FAKE_MIG") ? 0 : 3; }
#endif
"""


def build(folder: Path, *options: str) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler: the fake driver's library is built here")
    (folder / "fake.c").write_text(FAKE)
    command = [compiler, "-shared", "-fPIC", "-w", *options, "-o", folder / "fake.so", folder / "fake.c"]
    subprocess.run(command, check=True)
    return folder / "fake.so"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def copied(library: Path, tmp_path: Path) -> NvmlInventory:
    """A library of its own for each test: its variables last as long as the process."""
    # And of its own name: to write over one that is loaded would be the end of this process.
    return NvmlInventory(str(shutil.copy(library, tmp_path / f"libnvidia-ml-{len(list(tmp_path.iterdir()))}.so.1")))


def test_the_drivers_library_tells_the_devices_by_uuid(library: Path, tmp_path: Path) -> None:
    found = copied(library, tmp_path).read()
    assert [(d.uuid, d.minor) for d in found.devices] == [("GPU-00000001", 0), ("GPU-00000002", 1)]
    first = found.devices[0]
    assert (first.model, first.memory_bytes, first.driver_version) == ("NVIDIA H200", 150754820096, "580.159.04")
    assert first.cuda_version == "13.0" and not any(d.trouble for d in found.devices) and not found.reason


@pytest.mark.parametrize(
    ("variable", "trouble"),
    [
        ("FAKE_ECC", "3 uncorrected memory errors"),
        ("FAKE_ROWS", "waits to be remapped"),
        ("FAKE_MIG", "MIG mode is on"),
        ("FAKE_LOST", "the device is lost"),
    ],
)
def test_a_sick_device_is_told_and_the_other_is_well(library, tmp_path, monkeypatch, variable, trouble) -> None:
    # ctypes' library reads the C environment, which os.environ writes.
    monkeypatch.setenv(variable, "2")
    well, sick = copied(library, tmp_path).read().devices
    assert not well.trouble and trouble in sick.trouble and sick.uuid == "GPU-00000002"


def test_an_xid_is_remembered_though_the_driver_tells_it_once(library, tmp_path, monkeypatch) -> None:
    inventory = copied(library, tmp_path)
    assert not inventory.read().devices[1].trouble
    monkeypatch.setenv("FAKE_XID", "79")
    assert inventory.read().devices[1].trouble == "XID 79"
    monkeypatch.delenv("FAKE_XID")
    assert inventory.read().devices[1].trouble == "XID 79"
    inventory.close()


def test_what_a_program_did_wrong_leaves_its_device_well(library, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_XID", "31")
    assert not any(device.trouble for device in copied(library, tmp_path).read().devices)


def test_a_device_that_fell_off_the_bus_is_gone_and_a_driver_that_does_not_start_says_so(
    library, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("FAKE_NO_HANDLE", "2")
    found = copied(library, tmp_path).read()
    assert [d.uuid for d in found.devices] == ["GPU-00000001"] and "error 15" in found.reason
    monkeypatch.setenv("FAKE_INIT", "9")
    found = copied(library, tmp_path).read()
    assert found.devices == () and "error 9" in found.reason


def test_an_older_driver_without_the_newer_functions_tells_what_it_has(library: Path, tmp_path: Path) -> None:
    found = NvmlInventory(str(build(tmp_path, "-DOLD"))).read()
    assert [d.trouble for d in found.devices] == ["", ""] and found.devices[0].minor == 0
