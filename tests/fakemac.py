"""A Mac of a few lines: an xcrun on PATH, and a module that answers as PyObjC's Metal does."""

import stat
import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

XCRUN = """\
#!{python}
import re, sys
args = sys.argv[3:]
tool, rest = args[0], args[1:]
if tool == "metal" and rest == ["--version"]:
    print("Apple metal version 32023.1 (metalfe-32023.1)")
elif tool == "metal":
    source, out = rest[rest.index("-c") + 1], rest[rest.index("-o") + 1]
    text = open(source).read()
    if "-std=metal4.0" in rest:
        sys.exit("error: invalid value 'metal4.0' in '-std=metal4.0'")
    if "does_not_compile" in text:
        sys.exit(source + ":1:1: error: pointer type must have explicit address space qualifier")
    if "warns" in text:
        print(source + ":1:1: warning: unused variable")
    names = re.findall(r'host_name\\\\("(\\\\w+)"\\\\)|kernel void (\\\\w+)', text)
    open(out, "w").write("\\\\n".join(a or b for a, b in names))
elif tool == "metallib":
    out = rest[rest.index("-o") + 1]
    open(out, "w").write("\\\\n".join(open(p).read() for p in rest[:rest.index("-o")]))
elif tool == "metal-nm":
    for name in open(rest[0]).read().split():
        print("---------------- T " + name)
"""


def install_xcrun(folder: Path) -> Path:
    """A folder for PATH with the compiler."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "xcrun"
    program.write_text(XCRUN.replace("{python}", sys.executable).replace("\\\\", "\\"))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


class _Buffer:
    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    def contents(self) -> Any:
        return SimpleNamespace(as_buffer=lambda n: memoryview(self.data)[:n])


class _Constants:
    def __init__(self) -> None:
        self.values: dict[int, bytes] = {}

    def setConstantValue_type_atIndex_(self, data: bytes, kind: int, index: int) -> None:  # noqa: N802
        assert len(data) == {53: 1, 29: 4}[kind]
        self.values[index] = data


class _Function:
    def __init__(self, name: str, constants: dict[int, int], values: dict[int, bytes]) -> None:
        self.name, self.constants, self.values = name, constants, values

    def functionConstantsDictionary(self) -> dict[str, Any]:  # noqa: N802
        def constant(index: int, kind: int) -> Any:
            return SimpleNamespace(index=lambda: index, type=lambda: kind, required=lambda: True)

        return {f"c{i}": constant(i, t) for i, t in self.constants.items()}


class _Library:
    def __init__(self, names: list[str], constants: dict[int, int]) -> None:
        self.names, self.constants = names, constants

    def functionNames(self) -> list[str]:  # noqa: N802
        return self.names

    def newFunctionWithName_(self, name: str) -> _Function:  # noqa: N802
        return _Function(name, self.constants, {})

    def newFunctionWithName_constantValues_error_(  # noqa: N802
        self, name: str, values: _Constants, _: None
    ) -> tuple[_Function, None]:
        return _Function(name, self.constants, values.values), None


class _Encoder:
    """Runs the kernel `add`: dst[i] += the function constant 1, for as many floats as there are threads."""

    def __init__(self) -> None:
        self.buffers: dict[int, tuple[_Buffer, int]] = {}
        self.state: Any = None

    def setComputePipelineState_(self, state: Any) -> None:  # noqa: N802
        self.state = state

    def setBuffer_offset_atIndex_(self, buffer: _Buffer, offset: int, index: int) -> None:  # noqa: N802
        self.buffers[index] = (buffer, offset)

    def setThreadgroupMemoryLength_atIndex_(self, size: int, index: int) -> None:  # noqa: N802
        assert size % 16 == 0
        assert index == 0

    def dispatchThreadgroups_threadsPerThreadgroup_(  # noqa: N802
        self, grid: tuple[int, int, int], threads: tuple[int, int, int]
    ) -> None:
        buffer, offset = self.buffers[0]
        (step,) = struct.unpack("<i", self.state.function.values[1])
        for i in range(grid[0] * threads[0]):
            (x,) = struct.unpack_from("<f", buffer.data, offset + 4 * i)
            struct.pack_into("<f", buffer.data, offset + 4 * i, x + step)

    def endEncoding(self) -> None:  # noqa: N802
        pass


def fake_metal(
    names: list[str], *, max_threads: int = 1024, fails: bool = False, logs: tuple[str, ...] = ()
) -> ModuleType:
    """The module: a device whose libraries hold `names`, with a bool and an int as function constants."""
    state_of = lambda f: SimpleNamespace(  # noqa: E731
        function=f, maxTotalThreadsPerThreadgroup=lambda: max_threads,
        staticThreadgroupMemoryLength=lambda: 0, threadExecutionWidth=lambda: 32,
    )  # fmt: skip
    error = SimpleNamespace(localizedDescription=lambda: "address out of bounds")
    commands = lambda: SimpleNamespace(  # noqa: E731
        computeCommandEncoder=_Encoder, commit=lambda: None, waitUntilCompleted=lambda: None,
        error=lambda: error if fails else None, logs=lambda: logs or None, GPUStartTime=lambda: 1.0, GPUEndTime=lambda: 1.5,
    )  # fmt: skip

    def new_library(source: str, options: Any, _: None) -> tuple[Any, Any]:
        if "does_not_compile" in source:
            return None, SimpleNamespace(localizedDescription=lambda: "program_source:1: error")
        return _Library(names, {0: 53, 1: 29}), None

    device = SimpleNamespace(
        name=lambda: "Fake M1", maxThreadgroupMemoryLength=lambda: 32768, newCommandQueue=lambda: SimpleNamespace(commandBuffer=commands),
        newLibraryWithSource_options_error_=new_library,
        newComputePipelineStateWithFunction_error_=lambda f, _: (state_of(f), None),
        newBufferWithBytes_length_options_=lambda data, n, _: _Buffer(bytes(data).ljust(n, b"\0")),
    )  # fmt: skip
    module: Any = ModuleType("Metal")
    options = SimpleNamespace(setPreprocessorMacros_=lambda _: None)
    module.MTLCreateSystemDefaultDevice = lambda: device
    module.MTLCompileOptions = SimpleNamespace(alloc=lambda: SimpleNamespace(init=lambda: options))
    module.MTLFunctionConstantValues = SimpleNamespace(
        alloc=lambda: SimpleNamespace(init=_Constants)
    )
    module.MTLSizeMake = lambda x, y, z: (x, y, z)
    return module
