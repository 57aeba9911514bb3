// A call taken apart: what is compiled for, what varies, what the kernels receive, and whether it may be made.
#pragma once

#include "args.h"
#include "backward_args.h"
#include "gla/generator/problem.h"
#include "gla/generator/status.h"
#include "gla/gla.hpp"

namespace gla {

/// Precondition of the first two: check_shapes() is ok. gk and gv count as present when their pointers are
/// not null.
Problem problem_of(Operation operation, const ForwardCall& call);
Workload workload_of(const ForwardCall& call);

/// Everything but the workspace.
KernelArgs kernel_args(const ForwardCall& call);
BackwardArgs backward_args(const BackwardCall& call);

/// The sizes, types and flags of a call, or of the one that a backward operation belongs to; no pointer is looked at, except
/// that gk and gv are null or not.
Status check_shapes(Operation operation, const ForwardCall& call);

/// Null and unaligned pointers, strides, aliases, cu_seqlens_host. Precondition: check_shapes() is ok.
Status check_tensors(const ForwardCall& call);
Status check_tensors(Operation operation, const BackwardCall& call);

}  // namespace gla
