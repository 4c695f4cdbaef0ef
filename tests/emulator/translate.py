"""csrc/cuda/ops.cu as C++ for the emulator: its launches, stream, guard and accesses to memory."""

import re

LAUNCH = (
    r"kernel<<<(.*?),\s*block,\s*0,\s*static_cast<cudaStream_t>\(stream\)>>>\(\s*arguments\.\.\.\);"
)
EMULATED_LAUNCH = (
    r"emulator::launch(\1, block, __PRETTY_FUNCTION__, [&] { kernel(arguments...); });"
)
EDITS = [  # pattern, replacement
    (LAUNCH, EMULATED_LAUNCH),
    (r"void\* stream = nullptr;\n\s*TORCH_ERROR_CODE_CHECK\(.*?\)\);\n", "\n\n\n"),
    (r"torch::stable::accelerator::DeviceGuard guard;\n", "\n"),
    (r"explicit Guard\(const Tensor& w\) : guard\(.*?\) \{\}", "explicit Guard(const Tensor&) {}"),
    (r"STD_CUDA_KERNEL_LAUNCH_CHECK\(\);", ""),
    (r"__shared__ (\w+) (\w+)\[([^\]]+)\];", r"__shared__ emulator::Shared<\1, (\3)> \2;"),
    (
        r"(return \*reinterpret_cast<const Pack<T, N>\*>\(p\);)",
        r"emulator::touch(p, N, sizeof(T), false); \1",
    ),
    (
        r"(\*reinterpret_cast<Pack<T, N>\*>\(p\) = pack;)",
        r"emulator::touch(p, N, sizeof(T), true); \1",
    ),
    (
        r"constexpr int64_t MAX_GRID = (\d+);",
        r'const int64_t MAX_GRID = std::stoll(emulator::from_environment("EMULATOR_GRID", "\1"));',
    ),
    (r"#pragma unroll.*", ""),
]


def translate(code: str, device: str | None) -> str:
    """`code` with its kernels registered for tensors on `device` ("CPU"), or for none.

    Raises:
        ValueError: the code no longer has what one of `EDITS` expects.
    """
    registration = (r"WBCLI_REGISTER\(CUDA,", f"WBCLI_REGISTER({device},")
    if device is None:
        registration = (r"WBCLI_REGISTER\(CUDA, .*\)", "")
    for pattern, replacement in [*EDITS, registration]:
        flags = re.DOTALL if "\\s" in pattern else 0
        code, count = re.subn(pattern, replacement, code, flags=flags)
        if not count:
            raise ValueError(f"nothing matches {pattern!r}: bring EDITS up to date")
    return code
