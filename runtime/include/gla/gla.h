/* libgla, the C ABI. The C++ API (gla.hpp) documents shapes and rules; this is the same over plain structs.
 * Rules: every struct starts with its size, set by the caller; functions return a gla_status; nothing is
 * removed or renumbered within a soname. */
#ifndef GLA_GLA_H
#define GLA_GLA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define GLA_API
#else
#define GLA_API __attribute__((visibility("default")))
#endif

#define GLA_ABI_VERSION 1

/* Any int may arrive in these types; in C++ that is defined only where it is said. */
#ifdef __cplusplus
#define GLA_ENUM_BASE : int
#else
#define GLA_ENUM_BASE
#endif

/* Codes of gla::StatusCode. */
typedef enum gla_status GLA_ENUM_BASE {
  GLA_OK = 0,
  GLA_INVALID_ARGUMENT = 1,
  GLA_UNSUPPORTED = 2,
  GLA_NOT_PREPARED = 3,
  GLA_WORKSPACE = 4,
  GLA_CUDA = 5,
  GLA_COMPILE = 6,
  GLA_IO = 7,
  GLA_FORMAT = 8,
  GLA_INTERNAL = 9
} gla_status;

typedef enum gla_operation GLA_ENUM_BASE {
  GLA_CHUNK_FORWARD = 0,
  GLA_RECURRENT_FORWARD = 1,
  GLA_CHUNK_BACKWARD = 2,
  GLA_RECURRENT_BACKWARD = 3
} gla_operation;
typedef enum gla_dtype GLA_ENUM_BASE { GLA_FP16 = 0, GLA_BF16 = 1, GLA_FP32 = 2 } gla_dtype;
typedef enum gla_accuracy GLA_ENUM_BASE { GLA_ACCURACY_DEFAULT = 0, GLA_ACCURACY_FAST = 1 } gla_accuracy;
typedef enum gla_log_level GLA_ENUM_BASE {
  GLA_LOG_DEBUG = 0,
  GLA_LOG_INFO = 1,
  GLA_LOG_WARNING = 2
} gla_log_level;
#undef GLA_ENUM_BASE

typedef struct gla_context gla_context;
typedef void (*gla_log_callback)(void* user, gla_log_level level, const char* message);

typedef struct gla_context_options {
  size_t struct_size;      /* sizeof(gla_context_options) */
  int device;              /* CUDA ordinal */
  const char* table;       /* a path, or "none"; NULL: found as gla.hpp says */
  const char* cache_dir;   /* of cubins; NULL: found as gla.hpp says */
  int max_multiprocessors; /* 0: all */
  gla_log_callback log;    /* called from any thread; NULL: none */
  void* log_user;
} gla_context_options;

/* A device tensor [batch, token, head, channel], 16-byte aligned. */
typedef struct gla_tensor {
  void* data;
  int64_t stride_batch, stride_token, stride_head; /* elements; channels are contiguous */
} gla_tensor;

/* Zero it first: zero is absent, off, the default or fp16; with batch 0 there is nothing to do. */
typedef struct gla_forward_call {
  size_t struct_size;            /* sizeof(gla_forward_call) */
  gla_tensor q, k, v, gk, gv, o; /* heads, channels: HQ, K; H, K; H, V; H, K; H, V; HQ, V */
  const void* initial_state;     /* [N, H, K, V] or, if state_v_first, [N, H, V, K]; NULL: zero */
  void* final_state;             /* the same shape, may be the same memory; NULL: not wanted */
  const void* cu_seqlens;        /* [N+1] on the device, ascending from 0 to T; NULL: none */
  const void* cu_seqlens_host;   /* the same on the host, checked; may be NULL */
  int cu_seqlens_is_int64;       /* 0: int32 */
  int fp32_gate_gradients;       /* of backward operations: dgk and dgv in fp32; 0: in gate_dtype */
  int64_t batch;                 /* B; 1 with cu_seqlens */
  int64_t sequences;             /* N with cu_seqlens; otherwise 0 or B */
  int64_t tokens;                /* T */
  int query_heads, heads;        /* HQ, H; HQ = G * H */
  int head_dim_k, head_dim_v;    /* K, V */
  gla_dtype dtype;               /* of q, k, v, o */
  gla_dtype gate_dtype;          /* of gk, gv: fp32 or dtype */
  gla_dtype state_dtype;         /* fp32; recurrent_forward takes bf16 too */
  int reverse;                   /* recurrent operations only */
  int state_v_first;
  int has_scale; /* 0: K^-0.5 */
  float scale;
  gla_accuracy accuracy;
} gla_forward_call;

/* The gradients of a forward call. Zero it first: an output that is zero is not wanted. dgk of 16 bits by chunk_backward
 * wants dk too. */
typedef struct gla_backward_call {
  size_t struct_size;              /* sizeof(gla_backward_call) */
  const gla_forward_call* forward; /* the call itself; its o and final_state are not looked at */
  gla_tensor d_o;                  /* [B, T, HQ, V] */
  gla_tensor dq, dk, dv, dgk, dgv; /* of the shapes and dtypes of q, k, v, gk, gv; fp32_gate_gradients */
  const void* d_final_state;       /* fp32, the layout of initial_state; NULL: zero */
  void* d_initial_state;           /* the same, written; NULL: not wanted */
} gla_backward_call;

GLA_API int gla_abi_version(void);
GLA_API const char* gla_version(void);
/* The message of this thread's last call that did not return GLA_OK; valid until its next call. */
GLA_API const char* gla_last_error(void);
GLA_API const char* gla_status_name(gla_status status);

/* A struct_size smaller than this header's is refused; in a larger one, what this library does not know must
 * be 0. */
GLA_API gla_status gla_context_create(const gla_context_options* options, gla_context** context);
/* The streams that it was used on must be done. NULL is ignored. */
GLA_API void gla_context_destroy(gla_context* context);

/* Here and below, except in gla_forward and gla_backward, of the call's pointers only whether gk, gv and
 * cu_seqlens are NULL matters, and in gla_workspace_bytes whether final_state is initial_state. */
GLA_API gla_status gla_workspace_bytes(gla_context* context, gla_operation operation,
                                       const gla_forward_call* call, size_t* bytes);
/* Enqueues on stream (CUstream or cudaStream_t). workspace: 256-byte aligned device memory of at least
 * gla_workspace_bytes, NULL where that is 0. */
GLA_API gla_status gla_forward(gla_context* context, gla_operation operation, const gla_forward_call* call,
                               void* workspace, size_t workspace_size, void* stream);
/* The same for a backward operation; its workspace is gla_workspace_bytes of (operation, call->forward). */
GLA_API gla_status gla_backward(gla_context* context, gla_operation operation, const gla_backward_call* call,
                                void* workspace, size_t workspace_size, void* stream);
/* Compiles and loads what `call` needs without launching. */
GLA_API gla_status gla_prepare(gla_context* context, gla_operation operation, const gla_forward_call* call);
/* Pins the variant written as in the table ("fused chunk=64 ..."); NULL unpins. */
GLA_API gla_status gla_pin(gla_context* context, gla_operation operation, const gla_forward_call* call,
                           const char* variant);
/* Writes a line "variant; match; reason" of what the call would get, NUL-terminated, cut at `size`. */
GLA_API gla_status gla_describe(gla_context* context, gla_operation operation, const gla_forward_call* call,
                                char* text, size_t size);

#ifdef __cplusplus
}
#endif
#endif
