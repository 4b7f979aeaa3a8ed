"""Compiles the kernels of kernels.py to PTX, ahead of time: no GPU and no driver is needed.

Usage: compile.py FOLDER  (FOLDER gets NAME.ptx of each variant for sm_80, and manifest.txt; its
folder sm_90 gets the same of those for sm_90a)
"""

import os
import sys
from pathlib import Path

# Without line tables: they would hold this machine's paths.
os.environ["TRITON_DISABLE_LINE_INFO"] = "1"
# Contraction of mul and add into fma, which Triton leaves to its LLVM.
os.environ["TRITON_DEFAULT_FP_FUSION"] = "1"

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import kernels

def pointers(**types):
    return {name: f"*{ty}" for name, ty in types.items()}


GEMM = ["m", "n", "k", "stride_a", "stride_b", "stride_c"]


def gemm(kernel, operand, result, warps, stages, odd=False, **tile):
    signature = pointers(a=operand, b=operand, c=result) | {name: "i32" for name in GEMM}
    # n and k that are multiples of 16 allow asynchronous copies of 16 bytes; odd ones make the
    # compiler load element by element.
    aligned = ["a", "b", "c", "stride_a", "stride_b", "stride_c"] + ([] if odd else ["n", "k"])
    return kernel, signature, tile, aligned, warps, stages


def attention(ty):
    signature = pointers(q=ty, k=ty, v=ty, out=ty) | {"tokens": "i32", "scale_log2": "fp32"}
    return kernels.attention, signature, {"HEAD": 64, "BM": 64, "BN": 32}, ["q", "k", "v", "out"], 4, 2


def softmax(ty):
    signature = pointers(x=ty, y=ty) | {"columns": "i32", "stride": "i32"}
    return kernels.softmax, signature, {"BLOCK": 1024}, ["x", "y"], 4, 1


def layer_norm(ty):
    signature = pointers(x=ty, weight=ty, bias=ty, y=ty, mean_out="fp32", rstd_out="fp32")
    signature |= {"columns": "i32", "stride": "i32", "epsilon": "fp32"}
    return kernels.layer_norm, signature, {"BLOCK": 512}, ["x", "weight", "bias", "y"], 4, 1


def mapped(kernel, ty, warps, a, b, **tile):
    box = lambda sizes: f"tensordesc<{ty}[{','.join(map(str, sizes))}]>"
    signature = {"a": box(a), "b": box(b), "c": box([tile["BM"], tile["BN"]]), "m": "i32", "n": "i32", "k": "i32"}
    return kernel, signature, tile, [], warps, 3


def made(ty, **tile):
    signature = pointers(a=ty, b=ty, c=ty) | {"m": "i32", "n": "i32", "k": "i32"}
    return kernels.matmul_made_maps, signature, tile, ["a", "b", "c", "n", "k"], 4, 3


VARIANTS = {
    "matmul_bf16": gemm(kernels.matmul, "bf16", "bf16", 4, 3, BM=64, BN=64, BK=32, GROUP=4),
    "matmul_f16": gemm(kernels.matmul, "fp16", "fp16", 8, 4, BM=128, BN=64, BK=32, GROUP=8),
    "matmul_f16_odd": gemm(kernels.matmul, "fp16", "fp16", 4, 3, odd=True, BM=64, BN=64, BK=32, GROUP=4),
    "matmul_tf32": gemm(kernels.matmul, "fp32", "fp32", 4, 3, BM=64, BN=64, BK=32, GROUP=4),
    "matmul_i8": gemm(kernels.matmul, "i8", "i32", 4, 3, BM=64, BN=64, BK=64, GROUP=4),
    "split_k_f16": gemm(kernels.matmul_split_k, "fp16", "fp32", 4, 2, BM=32, BN=64, BK=32, SPLITS=3),
    "split_k_bf16": gemm(kernels.matmul_split_k, "bf16", "fp32", 4, 2, BM=32, BN=64, BK=32, SPLITS=4),
    "softmax_f32": softmax("fp32"),
    "softmax_f16": softmax("fp16"),
    "layer_norm_f32": layer_norm("fp32"),
    "layer_norm_bf16": layer_norm("bf16"),
    "attention_f16": attention("fp16"),
    "attention_bf16": attention("bf16"),
}


# Small tiles use mma.sync on sm_90 as they do on sm_80: a warpgroup's wgmma has 64 rows.
HOPPER = {
    name: VARIANTS[name]
    for name in ["matmul_f16_odd", "matmul_tf32", "matmul_i8", "split_k_bf16", "attention_f16", "attention_bf16"]
} | {
    "matmul_bf16": gemm(kernels.matmul, "bf16", "bf16", 4, 3, BM=128, BN=128, BK=64, GROUP=4),
    "matmul_f16": gemm(kernels.matmul, "fp16", "fp16", 8, 3, BM=128, BN=256, BK=64, GROUP=4),
    "matmul_e4m3": gemm(kernels.matmul_columns, "fp8e4nv", "fp32", 4, 3, BM=128, BN=64, BK=64),
    "matmul_e5m2": gemm(kernels.matmul_columns, "fp8e5", "fp32", 4, 3, BM=64, BN=32, BK=128),
    "split_k_wgmma_f16": gemm(kernels.matmul_split_k, "fp16", "fp32", 4, 3, BM=64, BN=64, BK=32, SPLITS=3),
    "tensor_maps_bf16": mapped(kernels.matmul_tensor_maps, "bf16", 4, [128, 64], [64, 64], BM=128, BN=64, BK=64),
    "tensor_maps_f16": mapped(kernels.matmul_tensor_maps, "fp16", 4, [64, 32], [128, 32], BM=64, BN=128, BK=32),
    "persistent_bf16": mapped(kernels.matmul_persistent, "bf16", 8, [128, 64], [64, 128], BM=128, BN=128, BK=64, BLOCKS=3),
    "persistent_f16": mapped(kernels.matmul_persistent, "fp16", 4, [64, 64], [64, 64], BM=64, BN=64, BK=64, BLOCKS=2),
    "made_maps_bf16": made("bf16", BM=128, BN=64, BK=64),
    "made_maps_f16": made("fp16", BM=64, BN=64, BK=32),
}


def build(kernel, types, constants, aligned, warps, stages, capability):
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=attributes)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})


def types_of(types, maps):
    """The parameters' types; of a tensor map also the box that the kernel's copies move, and how they swizzle it."""
    maps = iter(maps or [])
    for name, ty in types.items():
        if ty.startswith("tensordesc"):
            made = next(maps)
            box = "x".join(map(str, made["block_size"]))
            ty = f"map/{ty[len('tensordesc<'):ty.index('[')]}/{box}/{made['swizzle']}"
        yield f"{name}:{ty}"


def write(folder, variants, capability):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"# Made by compile.py with triton {triton.__version__}: what a launch of each kernel needs.",
        "# Parameters are those of the signature, then pointers to scratch memory: bytes for each block, or 0.",
        "# A parameter map/TYPE/BOX/SWIZZLE is a tensor map, then its sizes (i32) and strides (i64).",
        "# variant; kernel; warps; dynamic shared bytes; scratch bytes; constants; parameters",
    ]
    for name, variant in variants.items():
        compiled = build(*variant, capability)
        meta = compiled.metadata
        if meta.profile_scratch_size != 0:
            sys.exit(f"{name} needs memory for profiles, which the tests don't give")
        constants = " ".join(f"{key}={value}" for key, value in variant[2].items())
        parameters = " ".join(types_of(variant[1], meta.tensordesc_meta))
        fields = [name, meta.name, meta.num_warps, meta.shared, meta.global_scratch_size, constants, parameters]
        lines.append("; ".join(map(str, fields)))
        text = compiled.asm["ptx"]
        (folder / f"{name}.ptx").write_text(text if text.endswith("\n") else text + "\n")
    (folder / "manifest.txt").write_text("\n".join(lines) + "\n")


def main(folder):
    write(folder, VARIANTS, 80)
    write(folder / "sm_90", HOPPER, 90)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
