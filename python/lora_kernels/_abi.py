"""The C ABI as ctypes has it: the structs and numbers of `lora_kernels.h`, in its order.

A test compares them with the header.
"""

from __future__ import annotations

import ctypes
from ctypes import (
    POINTER,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any

VERSION = 0x000100
MAX_PROJECTIONS = 8
MAX_ADAPTERS = 8
BUFFER_ALIGNMENT = 16
MERGE_REPORT_BYTES = 48

STATUS_OK = 0


class Struct(ctypes.Structure):
    """A struct that starts with its size."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(struct_size=ctypes.sizeof(self), **fields)


class Device(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("compute_major", c_uint32),
        ("compute_minor", c_uint32),
        ("multiprocessors", c_uint32),
        ("shared_per_block", c_uint32),
        ("shared_per_multiprocessor", c_uint32),
        ("l2_bytes", c_uint64),
        ("planned_multiprocessors", c_uint32),
        ("reserved", c_uint32),
    ]


class Layout(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("role", c_uint32),
        ("index", c_size_t),
        ("row_stride", c_int64),
        ("alignment", c_size_t),
    ]


class Projection(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("out_features", c_size_t),
        ("rank", c_size_t),
    ]


class Problem(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("dtype", c_uint32),
        ("tokens", c_size_t),
        ("in_features", c_size_t),
        ("projections", POINTER(Projection)),
        ("projection_count", c_size_t),
        ("adapter_dtype", c_uint32),
        ("weight_layout", c_uint32),
        ("bias", c_uint32),
        ("dropout", c_uint32),
        ("mask", c_uint32),
        ("no_input_gradient", c_uint32),
        ("accumulate_y", c_uint32),
        ("accumulate_dx", c_uint32),
        ("accumulate_d_lora_a", c_uint32),
        ("accumulate_d_lora_b", c_uint32),
        ("layouts", POINTER(Layout)),
        ("layout_count", c_size_t),
        ("inference", c_uint32),
        ("batch_invariant", c_uint32),
        ("delta_only", c_uint32),
        ("dropout_from_memory", c_uint32),
        ("mask_row", c_uint64),
        ("mask_column", c_uint64),
        ("adapter_slots", c_size_t),
        ("adapters_per_row", c_size_t),
    ]


class PlanInfo(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("launches", c_uint32),
        ("saved_bytes", c_size_t),
        ("workspace_bytes", c_size_t),
        ("padded_ranks", c_size_t),
        ("s_offset", c_size_t),
        ("s_bytes", c_size_t),
        ("mask_offset", c_size_t),
        ("mask_bytes", c_size_t),
        ("flags_bytes", c_size_t),
    ]


class Dropout(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("p", c_float),
        ("seed", c_uint64),
        ("offset", c_uint64),
    ]


class ForwardRecord(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("dtype", c_uint32),
        ("adapter_dtype", c_uint32),
        ("mask", c_uint32),
        ("dropout", c_uint32),
        ("p", c_float),
        ("seed", c_uint64),
        ("offset", c_uint64),
        ("tokens", c_size_t),
        ("in_features", c_size_t),
        ("projection_count", c_size_t),
        ("out_features", c_size_t * MAX_PROJECTIONS),
        ("rank", c_size_t * MAX_PROJECTIONS),
        ("scaling", c_float * MAX_PROJECTIONS),
        ("dropout_from_memory", c_uint32),
        ("reserved", c_uint32),
        ("mask_row", c_uint64),
        ("mask_column", c_uint64),
        ("adapters_per_row", c_size_t),
    ]


class ForwardProjection(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("scaling", c_float),
        ("weight", c_uint64),
        ("bias", c_uint64),
        ("lora_a", c_uint64),
        ("lora_b", c_uint64),
        ("y", c_uint64),
    ]


class Rows(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("entries", c_uint64),
        ("slots", c_uint64),
        ("weights", c_uint64),
        ("wrong", c_uint64),
        ("gradients", c_uint64),
    ]


class TableAdapter(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("scaling", c_float),
        ("rank", c_size_t),
        ("lora_a", c_uint64),
        ("lora_b", c_uint64),
        ("lora_a_stride", c_int64),
        ("lora_b_stride", c_int64),
    ]


class TableEntry(ctypes.Structure):
    """Bytes of device memory: it doesn't say its size."""

    _fields_ = [("words", c_uint64 * 6)]


class TableGradients(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("rank", c_size_t),
        ("d_lora_a", c_uint64),
        ("d_lora_b", c_uint64),
        ("d_lora_a_stride", c_int64),
        ("d_lora_b_stride", c_int64),
    ]


class GradientEntry(ctypes.Structure):
    """Bytes of device memory: it doesn't say its size."""

    _fields_ = [("words", c_uint64 * 4)]


class ForwardArgs(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("x", c_uint64),
        ("projections", POINTER(ForwardProjection)),
        ("projection_count", c_size_t),
        ("dropout", POINTER(Dropout)),
        ("saved", c_uint64),
        ("saved_bytes", c_size_t),
        ("workspace", c_uint64),
        ("workspace_bytes", c_size_t),
        ("saved_s", c_uint64),
        ("saved_s_bytes", c_size_t),
        ("saved_mask", c_uint64),
        ("saved_mask_bytes", c_size_t),
        ("record", POINTER(ForwardRecord)),
        ("flags", c_uint64),
        ("flags_bytes", c_size_t),
        ("rows", POINTER(Rows)),
    ]


class BackwardProjection(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("scaling", c_float),
        ("dy", c_uint64),
        ("weight", c_uint64),
        ("lora_a", c_uint64),
        ("lora_b", c_uint64),
        ("d_lora_a", c_uint64),
        ("d_lora_b", c_uint64),
    ]


class BackwardArgs(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("x", c_uint64),
        ("projections", POINTER(BackwardProjection)),
        ("projection_count", c_size_t),
        ("dropout", POINTER(Dropout)),
        ("saved", c_uint64),
        ("saved_bytes", c_size_t),
        ("dx", c_uint64),
        ("workspace", c_uint64),
        ("workspace_bytes", c_size_t),
        ("saved_s", c_uint64),
        ("saved_s_bytes", c_size_t),
        ("saved_mask", c_uint64),
        ("saved_mask_bytes", c_size_t),
        ("record", POINTER(ForwardRecord)),
        ("rows", POINTER(Rows)),
    ]


class MergeProblem(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("dtype", c_uint32),
        ("out_features", c_size_t),
        ("in_features", c_size_t),
        ("ranks", POINTER(c_size_t)),
        ("adapter_count", c_size_t),
        ("adapter_dtype", c_uint32),
        ("weight_layout", c_uint32),
        ("safe", c_uint32),
        ("report", c_uint32),
        ("layouts", POINTER(Layout)),
        ("layout_count", c_size_t),
    ]


class MergeAdapter(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("scaling", c_float),
        ("lora_a", c_uint64),
        ("lora_b", c_uint64),
    ]


class MergeArgs(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("weight", c_uint64),
        ("merged", c_uint64),
        ("adapters", POINTER(MergeAdapter)),
        ("adapter_count", c_size_t),
        ("report", c_uint64),
        ("report_bytes", c_size_t),
        ("workspace", c_uint64),
        ("workspace_bytes", c_size_t),
    ]


class MergeReport(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("elements", c_uint64),
        ("nonzero", c_uint64),
        ("unchanged", c_uint64),
        ("non_finite", c_uint64),
        ("delta_squares", c_double),
        ("error_squares", c_double),
        ("unchanged_share", c_double),
        ("relative_error", c_double),
    ]


# By the name in C.
STRUCTS: dict[str, type[ctypes.Structure]] = {
    "lora_device": Device,
    "lora_layout": Layout,
    "lora_projection": Projection,
    "lora_problem": Problem,
    "lora_plan_info": PlanInfo,
    "lora_dropout": Dropout,
    "lora_forward_record": ForwardRecord,
    "lora_forward_projection": ForwardProjection,
    "lora_forward_args": ForwardArgs,
    "lora_rows": Rows,
    "lora_table_adapter": TableAdapter,
    "lora_table_entry": TableEntry,
    "lora_table_gradients": TableGradients,
    "lora_gradient_entry": GradientEntry,
    "lora_backward_projection": BackwardProjection,
    "lora_backward_args": BackwardArgs,
    "lora_merge_problem": MergeProblem,
    "lora_merge_adapter": MergeAdapter,
    "lora_merge_args": MergeArgs,
    "lora_merge_report": MergeReport,
}

# Opaque pointers, and where one is put.
_handle = c_void_p
_out = POINTER(c_void_p)

_BOUND = [POINTER(Problem), c_size_t, POINTER(Device), POINTER(c_size_t)]

# Result and arguments of every function, by its name in C.
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "lora_version": (c_uint32, []),
    "lora_last_error": (c_char_p, []),
    "lora_last_cuda_result": (c_int32, []),
    "lora_status_name": (c_char_p, [c_int32]),
    "lora_device_named": (c_int32, [c_char_p, POINTER(Device)]),
    "lora_kernels_load": (c_int32, [c_int32, _out]),
    "lora_kernels_free": (None, [_handle]),
    "lora_kernels_device": (c_int32, [_handle, POINTER(Device)]),
    "lora_kernels_context": (c_int32, [_handle, _out]),
    "lora_forward_plan_new": (c_int32, [POINTER(Problem), POINTER(Device), _out]),
    "lora_forward_plan_info": (c_int32, [_handle, POINTER(PlanInfo)]),
    "lora_forward_plan_description": (c_char_p, [_handle]),
    "lora_forward_plan_free": (None, [_handle]),
    "lora_backward_plan_new": (c_int32, [POINTER(Problem), POINTER(Device), _out]),
    "lora_backward_plan_info": (c_int32, [_handle, POINTER(PlanInfo)]),
    "lora_backward_plan_description": (c_char_p, [_handle]),
    "lora_backward_plan_free": (None, [_handle]),
    "lora_forward_workspace_bound": (c_int32, _BOUND),
    "lora_backward_workspace_bound": (c_int32, _BOUND),
    "lora_forward": (c_int32, [_handle, _handle, POINTER(ForwardArgs), c_void_p]),
    "lora_backward": (c_int32, [_handle, _handle, POINTER(BackwardArgs), c_void_p]),
    "lora_table_entry_of": (
        c_int32,
        [_handle, c_size_t, POINTER(TableAdapter), POINTER(TableEntry)],
    ),
    "lora_gradient_entry_of": (
        c_int32,
        [_handle, c_size_t, POINTER(TableGradients), POINTER(GradientEntry)],
    ),
    "lora_merge_plan_new": (c_int32, [POINTER(MergeProblem), POINTER(Device), _out]),
    "lora_merge_plan_info": (c_int32, [_handle, POINTER(PlanInfo)]),
    "lora_merge_plan_description": (c_char_p, [_handle]),
    "lora_merge_plan_free": (None, [_handle]),
    "lora_merge": (c_int32, [_handle, _handle, POINTER(MergeArgs), c_void_p]),
    "lora_merge_report_read": (c_int32, [c_void_p, POINTER(MergeReport)]),
}
