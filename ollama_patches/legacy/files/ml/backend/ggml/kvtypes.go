package ggml

// #cgo CPPFLAGS: -I${SRCDIR}/ggml/src
// #include "ggml.h"
// #include "ollama-kv-ops.h"
import "C"

import "github.com/ollama/ollama/ml"

var _ ml.BackendCacheTypes = (*Backend)(nil)

var cacheDTypes = map[ml.DType]uint32{
	ml.DTypeBF16:   C.GGML_TYPE_BF16,
	ml.DTypeQ51:    C.GGML_TYPE_Q5_1,
	ml.DTypeQ50:    C.GGML_TYPE_Q5_0,
	ml.DTypeQ41:    C.GGML_TYPE_Q4_1,
	ml.DTypeIQ4NL:  C.GGML_TYPE_IQ4_NL,
	ml.DTypeTurbo4: C.GGML_TYPE_TURBO4,
	ml.DTypeTurbo3: C.GGML_TYPE_TURBO3,
	ml.DTypeTurbo2: C.GGML_TYPE_TURBO2,
}

func cacheDType(ggmlType uint32) ml.DType {
	for dtype, t := range cacheDTypes {
		if t == ggmlType {
			return dtype
		}
	}

	return ml.DTypeOther
}

// CacheTypesSupported implements ml.BackendCacheTypes.
func (b *Backend) CacheTypesSupported(layer int, key, value ml.DType, keyDim, valueDim int) bool {
	l, ok := b.layers[layer]
	return !ok || bool(C.ollama_kv_types_supported(l.d, ggmlDType(key), ggmlDType(value), C.int64_t(keyDim), C.int64_t(valueDim)))
}

// CacheShiftSupported implements ml.BackendCacheTypes.
func (b *Backend) CacheShiftSupported(layer int, key ml.DType, keyDim int) bool {
	l, ok := b.layers[layer]
	return !ok || bool(C.ollama_kv_shift_supported(l.d, ggmlDType(key), C.int64_t(keyDim)))
}

// LayerDevice implements ml.BackendCacheTypes.
func (b *Backend) LayerDevice(layer int) string {
	if l, ok := b.layers[layer]; ok {
		return C.GoString(C.ggml_backend_dev_name(l.d))
	}

	return "CPU"
}
