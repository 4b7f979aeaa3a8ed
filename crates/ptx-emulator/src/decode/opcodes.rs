//! The instructions there are, and who gives them their meaning.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::builder::bare;
use super::form::Form;
use super::op::{ApproxOp, BitsOp, CarryOp, Control, FloatOp, Grid, IntOp, Op};
use super::types::Type;
use super::{
    DecodeError, async_copy, atomic, bulk, cluster, compare, control, convert, float, hint,
    integer, mbarrier, memory, stack, warp, wgmma, wmma,
};

type Rule = fn(&mut Form<'_, '_>) -> Result<(), DecodeError>;

fn is_float(form: &Form<'_, '_>) -> bool {
    matches!(form.peek_ty(), Some(Type::Float(_)))
}

/// The first word of each opcode and the rule that decodes it.
pub(super) const RULES: &[(&str, Rule)] = &[
    ("add", |form| {
        if form.has("cc") {
            integer::carry(form, CarryOp::Add, false)
        } else if is_float(form) {
            float::arithmetic(form, FloatOp::Add)
        } else {
            integer::arithmetic(form, IntOp::Add)
        }
    }),
    ("sub", |form| {
        if form.has("cc") {
            integer::carry(form, CarryOp::Sub, false)
        } else if is_float(form) {
            float::arithmetic(form, FloatOp::Sub)
        } else {
            integer::arithmetic(form, IntOp::Sub)
        }
    }),
    ("mad", |form| {
        if form.has("cc") {
            integer::carry(form, CarryOp::MadLo, false)
        } else if is_float(form) {
            float::multiply_add(form)
        } else {
            integer::multiply(form, true, false)
        }
    }),
    ("addc", |form| integer::carry(form, CarryOp::Add, true)),
    ("subc", |form| integer::carry(form, CarryOp::Sub, true)),
    ("madc", |form| integer::carry(form, CarryOp::MadLo, true)),
    ("mul", |form| {
        if is_float(form) {
            float::arithmetic(form, FloatOp::Mul)
        } else {
            integer::multiply(form, false, false)
        }
    }),
    ("min", |form| {
        if is_float(form) {
            float::arithmetic(form, FloatOp::Min)
        } else {
            integer::arithmetic(form, IntOp::Min)
        }
    }),
    ("max", |form| {
        if is_float(form) {
            float::arithmetic(form, FloatOp::Max)
        } else {
            integer::arithmetic(form, IntOp::Max)
        }
    }),
    ("abs", |form| {
        if is_float(form) {
            float::arithmetic(form, FloatOp::Abs)
        } else {
            integer::arithmetic(form, IntOp::Abs)
        }
    }),
    ("neg", |form| {
        if is_float(form) {
            float::arithmetic(form, FloatOp::Neg)
        } else {
            integer::arithmetic(form, IntOp::Neg)
        }
    }),
    ("fma", |form| float::arithmetic(form, FloatOp::Fma)),
    ("div", |form| {
        if is_float(form) {
            float::division(form, FloatOp::Div, ApproxOp::Div)
        } else {
            integer::arithmetic(form, IntOp::Div)
        }
    }),
    ("rcp", |form| {
        float::division(form, FloatOp::Rcp, ApproxOp::Rcp)
    }),
    ("sqrt", |form| {
        float::division(form, FloatOp::Sqrt, ApproxOp::Sqrt)
    }),
    ("rsqrt", |form| float::approximate(form, ApproxOp::Rsqrt)),
    ("ex2", |form| float::approximate(form, ApproxOp::Ex2)),
    ("lg2", |form| float::approximate(form, ApproxOp::Lg2)),
    ("sin", |form| float::approximate(form, ApproxOp::Sin)),
    ("cos", |form| float::approximate(form, ApproxOp::Cos)),
    ("tanh", |form| float::approximate(form, ApproxOp::Tanh)),
    ("copysign", float::copysign),
    ("testp", float::testp),
    ("rem", |form| integer::arithmetic(form, IntOp::Rem)),
    ("mul24", |form| integer::multiply(form, false, true)),
    ("mad24", |form| integer::multiply(form, true, true)),
    ("sad", integer::sad),
    ("dp4a", |form| integer::dot(form, false)),
    ("dp2a", |form| integer::dot(form, true)),
    ("and", |form| integer::logic(form, BitsOp::And)),
    ("or", |form| integer::logic(form, BitsOp::Or)),
    ("xor", |form| integer::logic(form, BitsOp::Xor)),
    ("not", |form| integer::logic(form, BitsOp::Not)),
    ("cnot", |form| integer::logic(form, BitsOp::Cnot)),
    ("lop3", integer::lop3),
    ("shl", |form| integer::shift(form, BitsOp::Shl)),
    ("shr", |form| integer::shift(form, BitsOp::Shr)),
    ("shf", integer::funnel),
    ("bfe", |form| integer::field(form, false)),
    ("bfi", |form| integer::field(form, true)),
    ("bfind", |form| integer::count(form, BitsOp::Bfind)),
    ("brev", |form| integer::count(form, BitsOp::Brev)),
    ("clz", |form| integer::count(form, BitsOp::Clz)),
    ("popc", |form| integer::count(form, BitsOp::Popc)),
    ("fns", integer::fns),
    ("bmsk", |form| integer::mask(form, false)),
    ("szext", |form| integer::mask(form, true)),
    ("prmt", integer::prmt),
    ("setp", compare::setp),
    ("set", compare::set),
    ("selp", compare::selp),
    ("slct", compare::slct),
    ("cvt", convert::cvt),
    ("mov", convert::mov),
    ("cvta", convert::cvta),
    ("ld", memory::load),
    ("ldu", memory::load_uniform),
    ("st", |form| {
        if form.flag("async") {
            mbarrier::async_store(form, false)
        } else {
            memory::store(form)
        }
    }),
    ("atom", |form| atomic::atomic(form, true)),
    ("red", |form| {
        if form.flag("async") {
            mbarrier::async_store(form, true)
        } else {
            atomic::atomic(form, false)
        }
    }),
    ("cp", async_copy::copy_async),
    ("tensormap", bulk::tensor_map),
    ("isspacep", memory::is_space),
    ("createpolicy", hint::create_policy),
    ("prefetch", hint::prefetch),
    ("prefetchu", |form| {
        form.need(&[("L1", ())])?;
        hint::address(form, false)
    }),
    ("discard", |form| {
        form.flag("global");
        form.need(&[("L2", ())])?;
        hint::address(form, true)
    }),
    ("applypriority", |form| {
        form.flag("global");
        form.need(&[("L2::evict_normal", ())])?;
        hint::address(form, true)
    }),
    ("membar", memory::membar),
    ("fence", memory::fence),
    ("griddepcontrol", |form| {
        let kinds = [
            ("wait", Grid::Wait),
            ("launch_dependents", Grid::LaunchDependents),
        ];
        let kind = form.need(&kinds)?;
        form.expect_operands(0..=0)?;
        form.emit(bare(Op::Grid(kind)))
    }),
    ("mapa", cluster::map_address),
    ("getctarank", cluster::rank_of),
    ("setmaxnreg", cluster::set_registers),
    ("mbarrier", mbarrier::mbarrier),
    ("pmevent", |form| {
        form.flag("mask");
        form.expect_operands(1..=1)?;
        form.emit(bare(Op::Nop))
    }),
    ("bar", warp::barrier),
    ("barrier", |form| {
        if form.flag("cluster") {
            cluster::barrier(form)
        } else {
            warp::barrier(form)
        }
    }),
    ("shfl", warp::shuffle),
    ("vote", warp::vote),
    ("match", warp::matching),
    ("redux", warp::redux),
    ("activemask", warp::active_mask),
    ("elect", warp::elect),
    ("ldmatrix", warp::load_matrix),
    ("stmatrix", warp::store_matrix),
    ("movmatrix", warp::move_matrix),
    ("mma", warp::mma),
    ("wmma", wmma::wmma),
    ("wgmma", wgmma::wgmma),
    ("nanosleep", warp::nanosleep),
    ("bra", control::bra),
    ("brx", control::brx),
    ("call", control::call),
    ("alloca", stack::allocate),
    ("stacksave", stack::save),
    ("stackrestore", stack::restore),
    ("ret", control::ret),
    ("exit", |form| control::end(form, Control::Exit)),
    ("trap", |form| control::end(form, Control::Trap)),
    ("brkpt", |form| control::end(form, Control::Trap)),
];

static BY_NAME: LazyLock<HashMap<&str, Rule>> = LazyLock::new(|| RULES.iter().copied().collect());

/// Gives one instruction its meaning.
pub(super) fn instruction(form: &mut Form<'_, '_>) -> Result<(), DecodeError> {
    match BY_NAME.get(form.inst.opcode.as_str()) {
        Some(rule) => rule(form),
        None => Err(form.error("this instruction is not supported")),
    }
}
