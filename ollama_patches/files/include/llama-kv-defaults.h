#pragma once

// KV-cache types that come from the model's own GGUF.
//
//   general.kv_cache.type_k, general.kv_cache.type_v   one type name, or an array with one name per layer
//
// They hold where llama_context_params::type_k/type_v is LLAMA_KV_TYPE_FROM_MODEL, the default; any other value wins
// over them. A model without these keys gets f16.

#include "llama.h"

#include <string>

// No type of a tensor, so that no real choice can be mistaken for it. ggml_type_name() must not see it.
#define LLAMA_KV_TYPE_FROM_MODEL GGML_TYPE_COUNT

// Name of a type for help texts and logs that come before a model is known.
LLAMA_API const char * llama_kv_type_name(enum ggml_type type);

// What llama_init_from_model() makes of these parameters for K or V: a type name, "mixed: 15 turbo4 + 3 f16" where
// layers differ, "none" where it refuses.
LLAMA_API std::string llama_kv_types_effective(
        const struct llama_model * model, const struct llama_context_params & params, bool of_k);
