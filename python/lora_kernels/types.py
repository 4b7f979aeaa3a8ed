"""What is to be computed: sizes, element types and memory layouts.

Plain values: making them loads no library.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum


class DType(IntEnum):
    """An element type; the numbers are `lora_dtype`'s."""

    F16 = 1
    BF16 = 2
    F32 = 3

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return 4 if self is DType.F32 else 2


class Role(IntEnum):
    """What a tensor is in a layer; the numbers are `lora_role`'s.

    Shapes, row-major, with M = tokens, K = in_features, N = out_features, r = rank: X and DX
    (M, K), WEIGHT and MERGED (N, K) or (K, N), LORA_A and D_LORA_A (r, K), LORA_B and D_LORA_B
    (N, r), Y and DY (M, N), BIAS (N).
    """

    X = 0
    WEIGHT = 1
    LORA_A = 2
    LORA_B = 3
    Y = 4
    DY = 5
    DX = 6
    D_LORA_A = 7
    D_LORA_B = 8
    BIAS = 9
    MERGED = 10

    @property
    def text(self) -> str:
        """The name in messages: `lora_A`."""
        return self.name.lower().replace("lora_a", "lora_A").replace("lora_b", "lora_B")


#: The tensors of an adapter: they can be of another type than the others.
_ADAPTER = (Role.LORA_A, Role.LORA_B, Role.D_LORA_A, Role.D_LORA_B)
#: What all projections share.
_SHARED = (Role.X, Role.DX)


class Mask(IntEnum):
    """Where backward finds the dropout's mask; the numbers are `lora_mask`'s."""

    STORED = 0
    REDRAWN = 1


class WeightLayout(IntEnum):
    """Which way round weights are stored; the numbers are `lora_weight_layout`'s.

    PEFT calls the second one `fan_in_fan_out`.
    """

    OUT_IN = 0
    IN_OUT = 1


@dataclass(frozen=True)
class Dropout:
    """Dropout on the adapters' input.

    The mask is a function of seed, offset, row and column alone (Philox4x32-10). `p` is in [0, 1),
    and is rounded to a multiple of 2**-16. seed and offset are 64-bit and unsigned.
    """

    p: float
    seed: int
    offset: int = 0

    def __post_init__(self) -> None:
        for name in ("seed", "offset"):
            value = getattr(self, name)
            if not 0 <= value < 1 << 64:
                raise ValueError(f"dropout {name} {value}: it must be an unsigned 64-bit number")

    @property
    def threshold(self) -> int:
        """An element is dropped where its 16 random bits are below this."""
        return min(int(self.p * 65536 + 0.5), 65535)


@dataclass(frozen=True)
class Projection:
    """One linear layer of those that share x. Rank 0: it has no adapter."""

    out_features: int
    rank: int


@dataclass(frozen=True)
class Layout:
    """How one matrix lies in memory; 0 leaves what a contiguous one has.

    index: which projection's, or in a merge which adapter's.
    row_stride: elements from the start of one row to the start of the next.
    alignment: what the address is a multiple of, in bytes. A plan made for 16 can choose the fast
    kernels.
    """

    role: Role
    index: int = 0
    row_stride: int = 0
    alignment: int = 0


@dataclass(frozen=True)
class Problem:
    """Adapted linear layers applied to a batch of tokens: one, or several that share x.

    `layouts` has the matrices that aren't contiguous and 16-byte aligned. `accumulate` names the
    outputs (Y, DX, D_LORA_A, D_LORA_B) that are added to what their memory holds.

    inference: no backward follows, so forward saves nothing. batch_invariant: the bits of a row of
    y depend on nothing but this row, its adapters and the weights. delta_only: y is the adapters'
    part alone; accumulate Y to add it to another kernel's product.

    dropout_from_memory: `Dropout.seed` is the device address of seed and offset, two unsigned
    64-bit numbers, and `Dropout.offset` is 0: a replayed graph draws the mask of what stands there
    then.
    mask_row, mask_column: where the mask of this problem, a shard, begins in that of the whole
    layer; the column is a multiple of 8.

    adapter_slots: the slots of an `AdapterTable`, whose adapters rows go through, up to
    adapters_per_row (1 to 4) each. The ranks of projections are then the largest that an adapter
    may have. 0: each projection has the adapter of the call.
    """

    tokens: int
    in_features: int
    projections: tuple[Projection, ...]
    dtype: DType
    adapter_dtype: DType | None = None
    weight_layout: WeightLayout = WeightLayout.OUT_IN
    bias: bool = False
    dropout: bool = False
    mask: Mask = Mask.STORED
    input_gradient: bool = True
    accumulate: frozenset[Role] = frozenset()
    layouts: tuple[Layout, ...] = ()
    inference: bool = False
    batch_invariant: bool = False
    delta_only: bool = False
    dropout_from_memory: bool = False
    mask_row: int = 0
    mask_column: int = 0
    adapter_slots: int = 0
    adapters_per_row: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "projections", tuple(self.projections))
        object.__setattr__(self, "layouts", _without_index(self.layouts, _SHARED))
        object.__setattr__(self, "accumulate", frozenset(self.accumulate))
        outputs = {Role.Y, Role.DX, Role.D_LORA_A, Role.D_LORA_B}
        for role in self.accumulate - outputs:
            raise ValueError(
                f"{role.text} can't be accumulated into: only y, dx, d_lora_A and d_lora_B are "
                "outputs"
            )

    def shape(self, role: Role, index: int = 0) -> tuple[int, ...]:
        """The shape of a tensor of a projection, as it is stored."""
        projection = self.projections[index]
        if role in _SHARED:
            return (self.tokens, self.in_features)
        if role in (Role.Y, Role.DY):
            return (self.tokens, projection.out_features)
        if role is Role.BIAS:
            return (projection.out_features,)
        return _shape(
            role, self.weight_layout, projection.out_features, self.in_features, projection.rank
        )

    def dtype_of(self, role: Role) -> DType:
        """The type of a tensor."""
        return self.adapter_dtype or self.dtype if role in _ADAPTER else self.dtype

    def row_stride(self, role: Role, index: int = 0) -> int:
        """Elements from one row of a tensor to the next."""
        index = 0 if role in _SHARED else index
        return _row_stride(self.layouts, role, index, self.shape(role, index))


@dataclass(frozen=True)
class MergeProblem:
    """Adding adapters to a base weight: merged = W + sum of scaling*B*A.

    The sum is taken in f32 and rounded once. safe: nothing is written if a merged element would be
    a NaN or an infinity; a safe merge always has a report. `layouts` is as in `Problem`, of
    WEIGHT, MERGED, LORA_A and LORA_B. The layout of WEIGHT is that of MERGED too, unless a later
    one says otherwise.
    """

    out_features: int
    in_features: int
    ranks: tuple[int, ...]
    dtype: DType
    adapter_dtype: DType | None = None
    weight_layout: WeightLayout = WeightLayout.OUT_IN
    safe: bool = False
    report: bool = False
    layouts: tuple[Layout, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranks", tuple(self.ranks))
        layouts = _without_index(self.layouts, (Role.WEIGHT, Role.MERGED))
        object.__setattr__(self, "layouts", layouts)

    @property
    def has_report(self) -> bool:
        """Whether a call writes a report."""
        return self.safe or self.report

    def shape(self, role: Role, index: int = 0) -> tuple[int, ...]:
        """The shape of the weight, the merged one, or a matrix of an adapter, as it is stored."""
        return _shape(
            role, self.weight_layout, self.out_features, self.in_features, self.ranks[index]
        )

    def dtype_of(self, role: Role) -> DType:
        """The type of a tensor."""
        return self.adapter_dtype or self.dtype if role in _ADAPTER else self.dtype

    def row_stride(self, role: Role, index: int = 0) -> int:
        """Elements from one row of a tensor to the next."""
        if role not in (Role.WEIGHT, Role.MERGED):
            return _row_stride(self.layouts, role, index, self.shape(role, index))
        weight = merged = self.shape(role)[1]
        for layout in self.layouts:
            if layout.role is Role.WEIGHT:
                weight = merged = layout.row_stride or weight
            elif layout.role is Role.MERGED:
                merged = layout.row_stride or merged
        return weight if role is Role.WEIGHT else merged


def _shape(
    role: Role, layout: WeightLayout, out_features: int, in_features: int, rank: int
) -> tuple[int, int]:
    if role in (Role.WEIGHT, Role.MERGED):
        is_out_in = layout is WeightLayout.OUT_IN
        return (out_features, in_features) if is_out_in else (in_features, out_features)
    if role in (Role.LORA_A, Role.D_LORA_A):
        return (rank, in_features)
    if role in (Role.LORA_B, Role.D_LORA_B):
        return (out_features, rank)
    raise ValueError(f"{role.text} has no part in this")


def _without_index(layouts: Iterable[Layout], roles: tuple[Role, ...]) -> tuple[Layout, ...]:
    """The layouts, with the index 0 for tensors that exist once."""
    return tuple(replace(layout, index=0) if layout.role in roles else layout for layout in layouts)


def _row_stride(layouts: tuple[Layout, ...], role: Role, index: int, shape: tuple[int, ...]) -> int:
    given = [
        layout.row_stride
        for layout in layouts
        if layout.role is role and layout.index == index and layout.row_stride
    ]
    return given[-1] if given else shape[-1]
