// Calls over made-up addresses, for what looks at them and does not follow them.
#pragma once

#include <cstdint>

#include "call.h"

namespace gla::test {

inline void* data(std::uintptr_t address) {
  return reinterpret_cast<void*>(address);
}

struct CallSizes {
  std::int64_t batch = 1, tokens = 1;
  int query_heads = 1, heads = 1, head_dim_k = 128, head_dim_v = 128;
};

/// A legal dense call without states: q, k, v, gk and o lie at 0x1000, 0x2000 and so on.
inline ForwardCall made_up_call(const CallSizes& sizes) {
  const auto [batch, tokens, query_heads, heads, k, v] = sizes;
  ForwardCall call;
  call.q = dense(data(0x1000), tokens, query_heads, k);
  call.k = dense(data(0x2000), tokens, heads, k);
  call.v = dense(data(0x3000), tokens, heads, v);
  call.gk = dense(data(0x4000), tokens, heads, k);
  call.o = dense(data(0x5000), tokens, query_heads, v);
  call.batch = batch;
  call.tokens = tokens;
  call.query_heads = query_heads;
  call.heads = heads;
  call.head_dim_k = k;
  call.head_dim_v = v;
  return call;
}

}  // namespace gla::test
