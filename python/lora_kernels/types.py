"""What is to be computed: sizes, element types and memory layouts. Plain values; no library is loaded for them."""

from __future__ import annotations

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


class Tensor(IntEnum):
    """The tensors of a layer; the numbers are `lora_tensor`'s.

    Shapes, row-major, with M = tokens, K = in_features, N = out_features, r = rank: X and DX (M, K), WEIGHT and MERGED (N, K) or (K, N),
    LORA_A and D_LORA_A (r, K), LORA_B and D_LORA_B (N, r), Y and DY (M, N), BIAS (N).
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


class Mask(IntEnum):
    """Where backward finds the dropout's mask; the numbers are `lora_mask`'s."""

    STORED = 0
    REDRAWN = 1


class WeightLayout(IntEnum):
    """Which way round weights are stored; the numbers are `lora_weight_layout`'s. PEFT calls the second one `fan_in_fan_out`."""

    OUT_IN = 0
    IN_OUT = 1


@dataclass(frozen=True)
class Dropout:
    """Dropout on the adapters' input.

    The mask is a function of seed, offset, row and column alone (Philox4x32-10). `p` is in [0, 1), and is rounded to a multiple of 2**-16;
    seed and offset are 64-bit and unsigned.
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

    row_stride: elements from the start of one row to the start of the next.
    alignment: what the address is a multiple of, in bytes; a plan made for 16 can choose the fast kernels.
    """

    tensor: Tensor
    index: int = 0
    row_stride: int = 0
    alignment: int = 0


@dataclass(frozen=True)
class Problem:
    """Adapted linear layers applied to a batch of tokens: one, or several that share x.

    Layouts say which matrices aren't contiguous and 16-byte aligned. `accumulate` names outputs (Y, DX, D_LORA_A, D_LORA_B) that are added to
    what their memory holds.
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
    accumulate: frozenset[Tensor] = frozenset()
    layouts: tuple[Layout, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "projections", tuple(self.projections))
        object.__setattr__(self, "layouts", _home(tuple(self.layouts), (Tensor.X, Tensor.DX)))
        object.__setattr__(self, "accumulate", frozenset(self.accumulate))
        outputs = {Tensor.Y, Tensor.DX, Tensor.D_LORA_A, Tensor.D_LORA_B}
        for tensor in self.accumulate - outputs:
            raise ValueError(f"{tensor.text} can't be accumulated into: only y, dx, d_lora_A and d_lora_B are outputs")

    def shape(self, tensor: Tensor, index: int = 0) -> tuple[int, ...]:
        """The shape of a tensor of a projection, as it is stored."""
        out_features, rank = self.projections[index].out_features, self.projections[index].rank
        if tensor in (Tensor.X, Tensor.DX):
            return (self.tokens, self.in_features)
        if tensor in (Tensor.Y, Tensor.DY):
            return (self.tokens, out_features)
        if tensor is Tensor.BIAS:
            return (out_features,)
        return _shape(tensor, self.weight_layout, out_features, self.in_features, rank)

    def dtype_of(self, tensor: Tensor) -> DType:
        """The type of a tensor."""
        adapter = tensor in (Tensor.LORA_A, Tensor.LORA_B, Tensor.D_LORA_A, Tensor.D_LORA_B)
        return self.adapter_dtype or self.dtype if adapter else self.dtype

    def row_stride(self, tensor: Tensor, index: int = 0) -> int:
        """Elements from one row of a tensor to the next."""
        index = 0 if tensor in (Tensor.X, Tensor.DX) else index
        return _row_stride(self.layouts, tensor, index, self.shape(tensor, index))


@dataclass(frozen=True)
class MergeProblem:
    """Adding adapters to a base weight: merged = W + sum of scaling*B*A, summed in f32 and rounded once.

    safe: nothing is written if a merged element would be a NaN or an infinity; it has a report always.
    Layouts as in `Problem`, of WEIGHT (then MERGED has it too, unless a later one says otherwise), MERGED, LORA_A and LORA_B.
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
        object.__setattr__(self, "layouts", _home(tuple(self.layouts), (Tensor.WEIGHT, Tensor.MERGED)))

    @property
    def has_report(self) -> bool:
        """Whether a call writes a report."""
        return self.safe or self.report

    def shape(self, tensor: Tensor, index: int = 0) -> tuple[int, ...]:
        """The shape of the weight, the merged one, or a matrix of an adapter, as it is stored."""
        return _shape(tensor, self.weight_layout, self.out_features, self.in_features, self.ranks[index])

    def dtype_of(self, tensor: Tensor) -> DType:
        """The type of a tensor."""
        adapter = tensor in (Tensor.LORA_A, Tensor.LORA_B)
        return self.adapter_dtype or self.dtype if adapter else self.dtype

    def row_stride(self, tensor: Tensor, index: int = 0) -> int:
        """Elements from one row of a tensor to the next."""
        if tensor not in (Tensor.WEIGHT, Tensor.MERGED):
            return _row_stride(self.layouts, tensor, index, self.shape(tensor, index))
        weight = merged = self.shape(tensor)[1]
        for layout in self.layouts:
            if layout.tensor is Tensor.WEIGHT:
                weight = merged = layout.row_stride or weight
            elif layout.tensor is Tensor.MERGED:
                merged = layout.row_stride or merged
        return weight if tensor is Tensor.WEIGHT else merged


def _shape(tensor: Tensor, layout: WeightLayout, out_features: int, in_features: int, rank: int) -> tuple[int, int]:
    if tensor in (Tensor.WEIGHT, Tensor.MERGED):
        return (out_features, in_features) if layout is WeightLayout.OUT_IN else (in_features, out_features)
    if tensor in (Tensor.LORA_A, Tensor.D_LORA_A):
        return (rank, in_features)
    if tensor in (Tensor.LORA_B, Tensor.D_LORA_B):
        return (out_features, rank)
    raise ValueError(f"{tensor.text} has no part in this")


def _home(layouts: tuple[Layout, ...], alone: tuple[Tensor, ...]) -> tuple[Layout, ...]:
    """The layouts, with the index 0 for tensors of which there is one only."""
    return tuple(replace(one, index=0) if one.tensor in alone else one for one in layouts)


def _row_stride(layouts: tuple[Layout, ...], tensor: Tensor, index: int, shape: tuple[int, ...]) -> int:
    given = [one.row_stride for one in layouts if one.tensor is tensor and one.index == index and one.row_stride]
    return given[-1] if given else shape[-1]
