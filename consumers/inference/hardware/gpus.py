"""What NVML says of the GPUs. What a driver or a card does not support is None, for each call by itself."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import pynvml
from msgspec import Struct

from events.result import GpuSample

Found = TypeVar("Found")

THERMAL_SLOWDOWN = 0x20 | 0x40  # software and hardware; power brakes and caps are other bits


class GpuDevice(Struct, frozen=True, kw_only=True):
    index: int
    name: str | None
    uuid: str | None
    memory_bytes: int | None
    power_limit_w: float | None
    driver: str | None
    cuda: int | None


class Gpus(Protocol):
    """The GPUs of this machine; none is as good an answer as some."""

    @property
    def devices(self) -> tuple[GpuDevice, ...]: ...

    def sample(self, pids: Collection[int]) -> tuple[GpuSample, ...]:
        """One sample a device; `process_memory_bytes` is that of these processes."""

    def energy_mj(self, index: int) -> int | None:
        """Millijoules that the device has used since its driver was loaded."""


class NvmlGpus:
    def __init__(self) -> None:
        count = _supported(pynvml.nvmlDeviceGetCount) or 0
        self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        self.devices = tuple(_device(index, handle) for index, handle in enumerate(self._handles))

    def sample(self, pids: Collection[int]) -> tuple[GpuSample, ...]:
        return tuple(_sample(index, handle, pids) for index, handle in enumerate(self._handles))

    def energy_mj(self, index: int) -> int | None:
        return _supported(pynvml.nvmlDeviceGetTotalEnergyConsumption, self._handles[index])


@contextmanager
def open_gpus() -> Iterator[NvmlGpus]:
    """No driver, no GPUs."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield NvmlGpus()
        return
    try:
        yield NvmlGpus()
    finally:
        pynvml.nvmlShutdown()


def _device(index: int, handle: Any) -> GpuDevice:
    memory = _supported(pynvml.nvmlDeviceGetMemoryInfo, handle)
    limit = _supported(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    return GpuDevice(
        index=index,
        name=_supported(pynvml.nvmlDeviceGetName, handle),
        uuid=_supported(pynvml.nvmlDeviceGetUUID, handle),
        memory_bytes=memory and memory.total,
        power_limit_w=limit and limit / 1000,
        driver=_supported(pynvml.nvmlSystemGetDriverVersion),
        cuda=_supported(pynvml.nvmlSystemGetCudaDriverVersion_v2),
    )


def _sample(index: int, handle: Any, pids: Collection[int]) -> GpuSample:
    utilization = _supported(pynvml.nvmlDeviceGetUtilizationRates, handle)
    memory = _supported(pynvml.nvmlDeviceGetMemoryInfo, handle)
    power = _supported(pynvml.nvmlDeviceGetPowerUsage, handle)
    return GpuSample(
        index=index,
        utilization_percent=None if utilization is None else utilization.gpu,
        memory_bytes=None if memory is None else memory.used,
        process_memory_bytes=_memory_of(pids, _supported(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)),
        power_w=None if power is None else power / 1000,
        temperature_c=_supported(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        sm_clock_mhz=_supported(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
        throttle_reasons=_supported(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle),
    )


def _memory_of(pids: Collection[int], processes: list[Any] | None) -> int | None:
    """None where the driver hides it, or counts processes of another namespace than ours."""
    ours = [process.usedGpuMemory for process in processes or () if process.pid in pids]
    return sum(ours) if ours and None not in ours else None


def _supported(call: Callable[..., Found], *arguments: Any) -> Found | None:
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return None
