"""Trains on one GPU with nothing but the driver: gradient descent on w in y = w·x, one weight for each of a million samples.

Needs no CUDA toolkit and no packages in the image: `libcuda.so.1` is the node's, and brings its own compiler for PTX. Fails
loudly where something is missing, or where it sees another device than the one it was given.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import sys
import uuid
from array import array

SAMPLES, ROUNDS, RATE, BLOCK = 1 << 20, 200, 0.1, 256
UUID_BYTES, NAME_BYTES = 16, 100

# One thread for each sample: w -= rate · 2 · (w·x - y) · x
PTX = b"""
.version 6.3
.target sm_75
.address_size 64
.visible .entry descend(.param .u64 p_w, .param .u64 p_x, .param .u64 p_y, .param .f32 p_rate, .param .u32 p_n)
{
  .reg .pred %out;
  .reg .b32 %i, %block, %size, %thread, %n;
  .reg .b64 %w, %x, %y, %at;
  .reg .f32 %fw, %fx, %fy, %error, %rate, %slope, %move;
  ld.param.u64 %w, [p_w];
  ld.param.u64 %x, [p_x];
  ld.param.u64 %y, [p_y];
  ld.param.f32 %rate, [p_rate];
  ld.param.u32 %n, [p_n];
  mov.u32 %block, %ctaid.x;
  mov.u32 %size, %ntid.x;
  mov.u32 %thread, %tid.x;
  mad.lo.u32 %i, %block, %size, %thread;
  setp.ge.u32 %out, %i, %n;
  @%out bra DONE;
  mul.wide.u32 %at, %i, 4;
  add.u64 %w, %w, %at;
  add.u64 %x, %x, %at;
  add.u64 %y, %y, %at;
  ld.global.f32 %fw, [%w];
  ld.global.f32 %fx, [%x];
  ld.global.f32 %fy, [%y];
  mul.rn.f32 %error, %fw, %fx;
  sub.rn.f32 %error, %error, %fy;
  mul.rn.f32 %slope, %error, %fx;
  add.rn.f32 %slope, %slope, %slope;
  mul.rn.f32 %move, %slope, %rate;
  sub.rn.f32 %fw, %fw, %move;
  st.global.f32 [%w], %fw;
DONE:
  ret;
}
\0"""


class Cuda:
    """The calls of the driver's interface (cuda.h) that this needs."""

    def __init__(self) -> None:
        self._driver = ctypes.CDLL("libcuda.so.1")
        self("cuInit", 0)

    def __call__(self, name: str, *arguments: object) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            raise RuntimeError(f"{name}: error {code}")

    def devices(self) -> list[tuple[str, str]]:
        """(UUID, name) of every device that this process can see."""
        count = ctypes.c_int()
        self("cuDeviceGetCount", ctypes.byref(count))
        found = []
        for number in range(count.value):
            raw, name = (ctypes.c_ubyte * UUID_BYTES)(), ctypes.create_string_buffer(NAME_BYTES)
            self("cuDeviceGetUuid", raw, number)
            self("cuDeviceGetName", name, NAME_BYTES, number)
            found.append((f"GPU-{uuid.UUID(bytes=bytes(raw))}", name.value.decode()))
        return found

    def upload(self, values: array) -> ctypes.c_uint64:
        address = ctypes.c_uint64()
        size = ctypes.c_size_t(len(values) * values.itemsize)
        self("cuMemAlloc_v2", ctypes.byref(address), size)
        self("cuMemcpyHtoD_v2", address, ctypes.c_void_p(values.buffer_info()[0]), size)
        return address

    def download(self, address: ctypes.c_uint64, count: int) -> array:
        values = array("f", bytes(4 * count))
        self("cuMemcpyDtoH_v2", ctypes.c_void_p(values.buffer_info()[0]), address, ctypes.c_size_t(4 * count))
        return values


def train(cuda: Cuda) -> tuple[array, float]:
    """The weights, and the largest error of any of them. Samples are drawn from a fixed seed."""
    context, module, function = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    cuda("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
    cuda("cuCtxSetCurrent", context)
    cuda("cuModuleLoadData", ctypes.byref(module), PTX)
    cuda("cuModuleGetFunction", ctypes.byref(function), module, b"descend")
    draw = random.Random(int(os.environ.get("SEED", "1")))
    truth = array("f", (draw.uniform(-1, 1) for _ in range(SAMPLES)))
    x = array("f", (draw.uniform(0.5, 1.5) for _ in range(SAMPLES)))
    y = array("f", (w * one for w, one in zip(truth, x, strict=True)))
    on_w, on_x, on_y = cuda.upload(array("f", bytes(4 * SAMPLES))), cuda.upload(x), cuda.upload(y)
    rate, count = ctypes.c_float(RATE), ctypes.c_uint32(SAMPLES)
    parameters = (ctypes.c_void_p * 5)(*(ctypes.addressof(one) for one in (on_w, on_x, on_y, rate, count)))
    for _ in range(ROUNDS):
        cuda("cuLaunchKernel", function, SAMPLES // BLOCK, 1, 1, BLOCK, 1, 1, 0, None, parameters, None)
    cuda("cuCtxSynchronize")
    weights = cuda.download(on_w, SAMPLES)
    return weights, max(abs(w - true) for w, true in zip(weights, truth, strict=True))


def main() -> None:
    cuda = Cuda()
    devices = cuda.devices()
    given = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    print(f"given {given}, visible {devices}")
    if [one for one, _ in devices] != given:
        sys.exit("the visible devices are not the given ones")
    weights, worst = train(cuda)
    print(f"largest error after {ROUNDS} rounds: {worst:.3g}")
    if not worst < 1e-3:
        sys.exit("it did not learn")
    out = os.environ.get("ANIMUS_ROOT", "/animus")
    with open(f"{out}/outputs/weights/weights.f32", "wb") as file:
        weights.tofile(file)
    with open(f"{out}/metrics.json", "w") as file:
        json.dump({"worst_error": float(worst), "samples": SAMPLES, "rounds": ROUNDS}, file)


if __name__ == "__main__":
    main()
