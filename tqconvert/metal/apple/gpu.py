"""The GPU of this Mac through PyObjC: libraries from source, pipelines, and launch records with times.

The back end for the records that the simulator runs too (tqconvert/metal/launch.py). Types of function
constants are asked of the library, since a record holds integers only.
"""

import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tqconvert.errors import KernelSourceError, ToolMissingError
from tqconvert.metal.launch import Launch

if TYPE_CHECKING:
    import numpy as np

SIMD_WIDTH = 32
_SHARED = 0  # MTLResourceStorageModeShared: the CPU reads what the GPU wrote, without a copy
_PACK = {53: ("<?", bool), 29: ("<i", int), 33: ("<I", int), 37: ("<h", int), 41: ("<H", int), 3: ("<f", float)}  # fmt: skip
"""MTLDataType of a function constant (Bool, Int, UInt, Short, UShort, Float) -> how its value is passed."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A kernel with its constants, compiled for this GPU."""

    kernel: str
    constants: tuple[tuple[int, int], ...]
    max_threads: int
    """Below 1024: the kernel takes many registers."""
    static_memory: int
    """Bytes of threadgroup memory that the kernel declares itself."""
    simd_width: int
    state: Any


@dataclass(frozen=True, slots=True)
class Timed:
    """What launches left, and the time that the GPU took for each."""

    arrays: Mapping[str, "np.ndarray[Any, Any]"]
    gpu_s: tuple[float, ...]
    """From start to end of its command buffer, by the GPU's clock."""
    wall_s: float
    error: str
    messages: tuple[str, ...] = ()
    """What the validation of shaders found: accesses out of bounds do not fail a command buffer."""


class Gpu:
    """The default device. Raises ToolMissingError where there is none, or no PyObjC."""

    def __init__(self) -> None:
        try:
            metal = import_module("Metal")
        except ImportError:
            raise ToolMissingError(
                "PyObjC's Metal: not installed", hint="pip install 'tqconvert[mac]' (on macOS only)"
            ) from None
        self.metal: Any = metal
        self.device: Any = metal.MTLCreateSystemDefaultDevice()
        if self.device is None:
            raise ToolMissingError("Metal: no GPU (in a session without a window server?)")
        self.queue: Any = self.device.newCommandQueue()
        self._pipelines: dict[tuple[str, tuple[tuple[int, int], ...]], Pipeline] = {}
        self._libraries: list[Any] = []

    @property
    def name(self) -> str:
        """The GPU's name."""
        return str(self.device.name())

    def load(self, source: str, defines: Mapping[str, str]) -> frozenset[str]:
        """Compile a library from source, as the runtime does; the names of its kernels.

        Raises KernelSourceError with what the compiler said.
        """
        options = self.metal.MTLCompileOptions.alloc().init()
        options.setPreprocessorMacros_(dict(defines))
        library, error = self.device.newLibraryWithSource_options_error_(source, options, None)
        if library is None:
            raise KernelSourceError(f"newLibraryWithSource: {_text(error)}")
        self._libraries.append(library)
        return frozenset(str(n) for n in library.functionNames())

    def pipeline(self, kernel: str, constants: Mapping[int, int]) -> Pipeline:
        """The kernel with these constants. Raises KernelSourceError."""
        key = (kernel, tuple(sorted(constants.items())))
        if key not in self._pipelines:
            self._pipelines[key] = self._compile(kernel, constants, key[1])
        return self._pipelines[key]

    def _compile(
        self, kernel: str, constants: Mapping[int, int], key: tuple[tuple[int, int], ...]
    ) -> Pipeline:
        library = next(
            (lib for lib in self._libraries if kernel in {str(n) for n in lib.functionNames()}),
            None,
        )
        if library is None:
            raise KernelSourceError(f"{kernel}: in none of the libraries that were loaded")
        plain = library.newFunctionWithName_(kernel)
        declared = dict(plain.functionConstantsDictionary()) if plain is not None else {}
        values = self.metal.MTLFunctionConstantValues.alloc().init()
        for constant in declared.values():
            index, kind = int(constant.index()), int(constant.type())
            if index not in constants:
                if bool(constant.required()):
                    raise KernelSourceError(f"{kernel}: function constant {index} has no value")
                continue
            if kind not in _PACK:
                raise KernelSourceError(f"{kernel}: function constant {index} of type {kind}")
            form, cast = _PACK[kind]
            data = struct.pack(form, cast(constants[index]))
            values.setConstantValue_type_atIndex_(data, kind, index)
        function, error = library.newFunctionWithName_constantValues_error_(kernel, values, None)
        if function is None:
            raise KernelSourceError(f"{kernel}: {_text(error)}")
        state, error = self.device.newComputePipelineStateWithFunction_error_(function, None)
        if state is None:
            raise KernelSourceError(f"{kernel}: no pipeline: {_text(error)}")
        return Pipeline(
            kernel, key, int(state.maxTotalThreadsPerThreadgroup()),
            int(state.staticThreadgroupMemoryLength()), int(state.threadExecutionWidth()), state,
        )  # fmt: skip

    def run(
        self, launches: Sequence[Launch], arrays: Mapping[str, Any], *, repeat: int = 1
    ) -> Timed:
        """Run launches one after the other; with `repeat` the whole sequence again, its last times kept.

        What launches of the first round wrote is then their input: for times, not for results.
        Raises KernelSourceError.
        """
        import numpy as np

        began = time.monotonic()
        given = {
            n: np.frombuffer(a, np.uint8) if isinstance(a, bytes) else np.ascontiguousarray(a)
            for n, a in arrays.items()
        }
        buffers = {
            n: self.device.newBufferWithBytes_length_options_(
                a.tobytes() or b"\0", max(a.nbytes, 1), _SHARED
            )
            for n, a in given.items()
        }
        pipelines = [self.pipeline(launch.kernel, launch.constants) for launch in launches]
        times: list[float] = []
        messages: list[str] = []
        error = ""
        for _ in range(repeat):
            times = []
            for launch, pipeline in zip(launches, pipelines, strict=True):
                seconds, error = self._dispatch(launch, pipeline, buffers, messages)
                times.append(seconds)
                if error:
                    break
            if error:
                break
        left = {
            n: np.frombuffer(
                bytes(buffers[n].contents().as_buffer(max(a.nbytes, 1)))[: a.nbytes], a.dtype
            ).reshape(a.shape)
            for n, a in given.items()
        }
        wall_s = time.monotonic() - began
        return Timed(left, tuple(times), wall_s, error, tuple(messages))

    def _dispatch(
        self, launch: Launch, pipeline: Pipeline, buffers: Mapping[str, Any], messages: list[str]
    ) -> tuple[float, str]:
        threads = launch.threads[0] * launch.threads[1] * launch.threads[2]
        if threads > pipeline.max_threads:
            return 0.0, f"{launch.kernel}: {threads} threads, at most {pipeline.max_threads}"
        memory = pipeline.static_memory + sum(launch.threadgroup)
        most = int(self.device.maxThreadgroupMemoryLength())
        if memory > most:
            # Metal's own answer without its debug layer is to run nothing.
            return 0.0, f"{launch.kernel}: {memory} bytes of threadgroup memory, at most {most}"
        commands = self.queue.commandBuffer()
        encoder = commands.computeCommandEncoder()
        encoder.setComputePipelineState_(pipeline.state)
        for index, slot in enumerate(launch.buffers):
            if slot is not None:
                encoder.setBuffer_offset_atIndex_(buffers[slot.array], slot.offset, index)
        for index, size in enumerate(launch.threadgroup):
            encoder.setThreadgroupMemoryLength_atIndex_(size, index)
        size = self.metal.MTLSizeMake
        encoder.dispatchThreadgroups_threadsPerThreadgroup_(
            size(*launch.grid), size(*launch.threads)
        )
        encoder.endEncoding()
        commands.commit()
        commands.waitUntilCompleted()
        messages += [f"{launch.kernel}: {text}" for text in _logged(commands)]
        error = commands.error()
        if error is not None:
            return 0.0, f"{launch.kernel}: {_text(error)}"
        return float(commands.GPUEndTime()) - float(commands.GPUStartTime()), ""


def differing_names(ours: Iterable[str], theirs: Iterable[str]) -> tuple[str, ...]:
    """Names that one list of kernels has and the other has not, each with its side."""
    a, b = set(ours), set(theirs)
    return (*(f"{n}: not in the library" for n in sorted(a - b)), *(f"{n}: not read from the source" for n in sorted(b - a)))  # fmt: skip


def _logged(commands: Any) -> tuple[str, ...]:
    """The messages of a command buffer that has ended; MTLLogContainer only enumerates."""
    logs = commands.logs()
    if logs is None:
        return ()
    try:
        return tuple(str(log) for log in logs)
    except TypeError:
        # Rather a failure than a pass that nobody looked at.
        return ("validation logged what this PyObjC cannot enumerate (--no-validate goes without)",)


def _text(error: Any) -> str:
    return str(error.localizedDescription()) if error is not None else "no reason given"
