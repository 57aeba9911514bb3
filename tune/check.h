// Error propagation: one macro, because only a macro can return from its caller.
#pragma once

#include "gla/generator/status.h"

/// Returns from the enclosing function with the status of an expression unless it is ok.
#define GLA_RETURN_IF_ERROR(expression)                                                  \
  do {                                                                                   \
    if (::gla::Status gla_status_ = (expression); !gla_status_.ok()) return gla_status_; \
  } while (false)
