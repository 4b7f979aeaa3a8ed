// Writes what src/bind/params.rs repeats of common/params.cuh, so that a test can compare: of every
// parameter struct its size and the offset of each field, then the values of the enums.
#include <initializer_list>

#include "common/mask_origin.cuh"
#include "common/params.cuh"
#include "decode/params.cuh"
#include "rows/forward_params.cuh"
#include "rows/grad_params.cuh"
#include "rows/sm90/forward_params.cuh"

namespace {

struct Writer {
    uint32_t* out;

    __device__ void words(std::initializer_list<uint32_t> values) {
        for (const uint32_t value : values) {
            *out++ = value;
        }
    }
    template <typename... Enums>
    __device__ void values(Enums... enums) {
        words({static_cast<uint32_t>(enums)...});
    }
    // The size of a struct and the offsets of fields of it.
    template <typename P, typename... Fields>
    __device__ void layout(const P& params, const Fields&... fields) {
        const auto offset = [&](const void* field) {
            return static_cast<uint32_t>(static_cast<const char*>(field) -
                                         reinterpret_cast<const char*>(&params));
        };
        words({static_cast<uint32_t>(sizeof(P)), offset(&fields)...});
    }
};

// Within a struct derived from another, fields go by their names alone.
struct DropoutFields : DropoutParams {
    __device__ void write(Writer& w) {
        w.layout<DropoutParams>(*this, seed, offset, threshold, keep_scale);
    }
};
struct MaskOriginFields : MaskOrigin {
    __device__ void write(Writer& w) { w.layout<MaskOrigin>(*this, words, row0, group0); }
};
struct AdapterFields : AdapterMatrix {
    __device__ void write(Writer& w) {
        w.layout<AdapterMatrix>(*this, data, stride, rank0, r, vectorised, scaling);
    }
};
struct PackJobFields : PackJob {
    __device__ void write(Writer& w) {
        w.layout<PackJob>(*this, from, to, from_stride, to_stride, rows, columns, first_block, pad);
    }
};
struct PackFields : PackParams {
    __device__ void write(Writer& w) {
        w.layout<PackParams>(*this, blocks, jobs, from_f32, pad, job);
    }
};
struct ShrinkFields : DrawnShrinkParams {
    __device__ void write(Writer& w) {
        w.layout<DrawnShrinkParams>(*this, x, s, mask, counters, x_stride, m, k, ranks, adapters,
                                    adapter_f32, mask_source, counter_count, pad, dropout, lora_a,
                                    pack_b, origin);
    }
};
struct ScheduleFields : ScheduleParams {
    __device__ void write(Writer& w) {
        w.layout<ScheduleParams>(*this, tiles_m, tiles_n, group_n, k_slices, partial, arrived);
    }
};
struct ForwardProjectionFields : ForwardProjection {
    __device__ void write(Writer& w) {
        w.layout<ForwardProjection>(*this, weight, bias, y, weight_stride, y_stride, n, first_tile,
                                    output_vectorised, pad, lora_b);
    }
};
struct ForwardFields : ForwardParams {
    __device__ void write(Writer& w) {
        w.layout<ForwardParams>(*this, x, s, x_stride, m, k, ranks, projections, adapter_f32,
                                accumulate, weight_transposed, pad, schedule, projection);
    }
};
struct ForwardSm90ProjectionFields : ForwardSm90Projection {
    __device__ void write(Writer& w) {
        w.layout<ForwardSm90Projection>(*this, weight, lora_b, y, bias, y_data, y_stride, n,
                                        first_tile, rank0, r, scaling, inverse_scaling,
                                        output_mapped, pad);
    }
};
struct ForwardSm90Fields : ForwardSm90Params {
    __device__ void write(Writer& w) {
        w.layout<ForwardSm90Params>(*this, x, s, m, k, projections, accumulate, schedule, pad,
                                    projection);
    }
};
struct GradBProjectionFields : GradBProjection {
    __device__ void write(Writer& w) {
        w.layout<GradBProjection>(*this, dy, t_partial, lora_b_partial, dy_stride, n, column_groups,
                                  rows_per_split, m_splits, first_block, pad, lora_b);
    }
};
struct GradBFields : GradBParams {
    __device__ void write(Writer& w) {
        w.layout<GradBParams>(*this, s, counters, m, ranks, projections, adapter_f32, counter_count,
                              pad, projection, pack_a);
    }
};
struct ReduceJobFields : ReduceJob {
    __device__ void write(Writer& w) {
        w.layout<ReduceJob>(*this, partial, out, out_stride, partial_stride, split_stride, splits,
                            rows, columns, first_block);
    }
};
struct ReduceFields : ReduceParams {
    __device__ void write(Writer& w) {
        w.layout<ReduceParams>(*this, blocks, jobs, out_f32, accumulate, job);
    }
};
struct TSourceFields : TSource {
    __device__ void write(Writer& w) {
        w.layout<TSource>(*this, partial, partials, rank0, r_pad, pad);
    }
};
struct GradAFields : DrawnGradAParams {
    __device__ void write(Writer& w) {
        w.layout<DrawnGradAParams>(*this, x, mask, t, lora_a_partial, x_stride, m, k, ranks,
                                   adapters, rows_per_split, column_groups, m_splits, mask_source,
                                   dropout, t_source, reduce_b, origin);
    }
};
struct GradXProjectionFields : GradXProjection {
    __device__ void write(Writer& w) {
        w.layout<GradXProjection>(*this, dy, weight, dy_stride, weight_stride, n, pad, lora_a);
    }
};
struct GradXFields : DrawnGradXParams {
    __device__ void write(Writer& w) {
        w.layout<DrawnGradXParams>(*this, t, mask, dx, dx_stride, m, k, ranks, projections,
                                   adapter_f32, accumulate, weight_transposed, output_vectorised,
                                   mask_source, pad, dropout, schedule, projection, reduce_a,
                                   origin);
    }
};
struct GradXSm90ProjectionFields : GradXSm90Projection {
    __device__ void write(Writer& w) { w.layout<GradXSm90Projection>(*this, dy, weight, lora_a); }
};
struct ProjectionSizeFields : ProjectionSize {
    __device__ void write(Writer& w) { w.layout<ProjectionSize>(*this, n, rank0, r); }
};
struct GradXSm90Fields : DrawnGradXSm90Params {
    __device__ void write(Writer& w) {
        w.layout<DrawnGradXSm90Params>(*this, t, dx, projection, size, mask, dx_data, dx_stride, m,
                                       k, ranks, projections, accumulate, output_mapped,
                                       mask_source, pad, dropout, schedule, reduce_a, pad_end,
                                       origin, origin_pad);
    }
};
struct AdapterEntryFields : AdapterEntry {
    __device__ void write(Writer& w) {
        w.layout<AdapterEntry>(*this, lora_a, lora_b, a_stride, b_stride, rank, scaling, flags,
                               pad);
    }
};
struct RowAdapterFields : RowAdapterParams {
    __device__ void write(Writer& w) {
        w.layout<RowAdapterParams>(*this, entries, slot, weight, wrong, slots, per_row, adapter_f32,
                                   s_stride, s_first, s_rank, one);
    }
};
struct DecodeProjectionFields : DecodeProjection {
    __device__ void write(Writer& w) {
        w.layout<DecodeProjection>(*this, weight, bias, y, weight_stride, y_stride, n, first_tile,
                                   output_vectorised, pad);
    }
};
struct DecodeFields : DecodeParams {
    __device__ void write(Writer& w) {
        w.layout<DecodeParams>(*this, x, s, s_partial, partial, flags, x_stride, m, k, projections,
                               accumulate, tiles, steps, share, slices, groups, blocks, flag_words,
                               pad, rows, projection);
    }
};
struct RowGradientsFields : RowGradients {
    __device__ void write(Writer& w) {
        w.layout<RowGradients>(*this, lora_a, lora_b, a_stride, b_stride);
    }
};
struct RowsGradProjectionFields : RowsGradProjection {
    __device__ void write(Writer& w) {
        w.layout<RowsGradProjection>(*this, dy, weight, dy_stride, weight_stride, n, dy_vectorised);
    }
};
struct RowsGradFields : RowsGradParams {
    __device__ void write(Writer& w) {
        w.layout<RowsGradParams>(*this, x, s, t, mask, dx, adapters, counters, gradients, x_stride,
                                 dx_stride, m, k, projections, base, gradient_f32, accumulate_a,
                                 accumulate_b, accumulate_dx, weight_transposed, x_vectorised,
                                 dx_vectorised, counter_count, rank_tiles, mask_source, dropout,
                                 schedule, rows, one, projection, origin);
    }
};
struct RowsForwardProjectionFields : RowsForwardProjection {
    __device__ void write(Writer& w) {
        w.layout<RowsForwardProjection>(*this, weight, bias, y, weight_stride, y_stride, n,
                                        first_tile, output_vectorised, pad);
    }
};
struct RowsForwardFields : RowsForwardParams {
    __device__ void write(Writer& w) {
        w.layout<RowsForwardParams>(*this, x, s, mask, x_stride, m, k, projections, base,
                                    accumulate, weight_transposed, x_vectorised, rank_tiles,
                                    mask_source, pad, dropout, origin, schedule, rows, projection);
    }
};
struct RowsForwardSm90ProjectionFields : RowsForwardSm90Projection {
    __device__ void write(Writer& w) {
        w.layout<RowsForwardSm90Projection>(*this, weight, y, bias, y_data, y_stride, n, first_tile,
                                            output_mapped, pad);
    }
};
struct RowsForwardSm90Fields : RowsForwardSm90Params {
    __device__ void write(Writer& w) {
        w.layout<RowsForwardSm90Params>(*this, x, projection, s, m, k, projections, accumulate,
                                        schedule, rows, pad);
    }
};
struct MergeAdapterFields : MergeAdapter {
    __device__ void write(Writer& w) { w.layout<MergeAdapter>(*this, lora_a, lora_b); }
};
struct MergeFields : MergeParams {
    __device__ void write(Writer& w) {
        w.layout<MergeParams>(*this, weight, merged, partial, totals, weight_stride, merged_stride,
                              rows, columns, adapters, adapter_f32, weight_transposed, partials,
                              writing, pad, adapter);
    }
};
struct MergeTotalsFields : MergeTotals {
    __device__ void write(Writer& w) {
        w.layout<MergeTotals>(*this, delta_squares, error_squares, elements, nonzero, unchanged,
                              non_finite);
    }
};

// In the order of src/bind/params.rs
template <typename... Fields>
__device__ void write_layouts(Writer& w) {
    ([&] {
        Fields fields;
        fields.write(w);
    }(), ...);
}

}  // namespace

extern "C" __global__ void lora_layout_check(uint32_t* out) {
    Writer w{out};
    write_layouts<DropoutFields, MaskOriginFields, AdapterFields, PackJobFields, PackFields,
                  ShrinkFields, ScheduleFields, ForwardProjectionFields, ForwardFields,
                  ForwardSm90ProjectionFields, ForwardSm90Fields, GradBProjectionFields,
                  GradBFields, ReduceJobFields, ReduceFields, TSourceFields, GradAFields,
                  GradXProjectionFields, GradXFields, GradXSm90ProjectionFields,
                  ProjectionSizeFields, GradXSm90Fields, AdapterEntryFields, RowAdapterFields,
                  DecodeProjectionFields, DecodeFields, RowGradientsFields,
                  RowsGradProjectionFields, RowsGradFields, RowsForwardProjectionFields,
                  RowsForwardFields, RowsForwardSm90ProjectionFields, RowsForwardSm90Fields,
                  MergeAdapterFields, MergeFields, MergeTotalsFields>(w);
    w.values(MaskSource::kNone, MaskSource::kStored, MaskSource::kDrawn);
    w.values(MergeWrite::kNever, MergeWrite::kAlways, MergeWrite::kIfFinite);
    w.words({kEntryPresent, kEntryAVectorised, kEntryBVectorised});
}
