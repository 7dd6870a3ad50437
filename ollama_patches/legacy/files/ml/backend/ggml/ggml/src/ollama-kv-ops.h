#pragma once

#include "ggml-backend.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Whether the device stores rows of the types and computes flash attention over them.
bool ollama_kv_types_supported(ggml_backend_dev_t dev, enum ggml_type k, enum ggml_type v, int64_t dim_k, int64_t dim_v);

// Whether the device turns K into floats and back, as a shift of the context does.
bool ollama_kv_shift_supported(ggml_backend_dev_t dev, enum ggml_type k, int64_t dim_k);

#ifdef __cplusplus
}
#endif
