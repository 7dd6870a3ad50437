package llama

/*
#cgo CPPFLAGS: -I${SRCDIR}/../ml/backend/ggml/ggml/src
#include "ggml.h"
#include "ollama-kv-ops.h"
*/
import "C"

import (
	"fmt"
	"log/slog"

	"github.com/ollama/ollama/kvcache/kvtype"
)

var ggmlKVTypes = map[string]C.enum_ggml_type{
	"f32":      C.GGML_TYPE_F32,
	kvtype.F16: C.GGML_TYPE_F16,
	"bf16":     C.GGML_TYPE_BF16,
	"q8_0":     C.GGML_TYPE_Q8_0,
	"q5_1":     C.GGML_TYPE_Q5_1,
	"q5_0":     C.GGML_TYPE_Q5_0,
	"q4_1":     C.GGML_TYPE_Q4_1,
	"q4_0":     C.GGML_TYPE_Q4_0,
	"iq4_nl":   C.GGML_TYPE_IQ4_NL,
	"turbo4":   C.GGML_TYPE_TURBO4,
	"turbo3":   C.GGML_TYPE_TURBO3,
	"turbo2":   C.GGML_TYPE_TURBO2,
}

// kvCacheTypes returns the types of K and V. It panics for names that FitKVCacheType would refuse.
func kvCacheTypes(text string) (k, v C.enum_ggml_type) {
	if text == "" {
		return C.GGML_TYPE_F16, C.GGML_TYPE_F16
	}

	spec, err := kvtype.Decode(text)
	if err != nil {
		panic(err)
	}

	return ggmlKVTypes[spec.K.Layer(0).Name], ggmlKVTypes[spec.V.Layer(0).Name]
}

// FitKVCacheType returns the types that the devices compute: what was asked for, or with f16 on a
// side whose type is the model's default.
func FitKVCacheType(text string, gpu bool) (string, error) {
	if text == "" {
		return "", nil
	}

	spec, err := kvtype.Decode(text)
	if err != nil {
		return "", err
	}

	k, v := spec.K.Layer(0), spec.V.Layer(0)
	if !gpu || k == v && !k.Turbo() {
		return text, nil
	}

	device := lacking(k, v)
	if device == "" {
		return text, nil
	}

	reason := fmt.Sprintf("%s has no kernels for K %s with V %s", device, k.Name, v.Name)
	plain := kvtype.Side{Names: []string{kvtype.F16}, Default: true}
	for _, side := range []*kvtype.Side{&spec.V, &spec.K} {
		if side.Default {
			*side = plain
			if lacking(spec.K.Layer(0), spec.V.Layer(0)) == "" {
				slog.Warn("KV cache type of the model: f16 instead", "reason", reason, "k", spec.K.Types(), "v", spec.V.Types())
				return spec.String(), nil
			}
		}
	}

	return "", fmt.Errorf("KV cache type: %s (other types by OLLAMA_KV_CACHE_TYPE, or num_gpu 0)", reason)
}

// lacking returns the name of a GPU that does not compute attention over the types, "" for none.
func lacking(k, v kvtype.Type) string {
	if k.Name == kvtype.F16 && v.Name == kvtype.F16 {
		return ""
	}

	for i := range C.ggml_backend_dev_count() {
		dev := C.ggml_backend_dev_get(i)
		switch C.ggml_backend_dev_type(dev) {
		case C.GGML_BACKEND_DEVICE_TYPE_GPU, C.GGML_BACKEND_DEVICE_TYPE_IGPU:
			if !C.ollama_kv_types_supported(dev, ggmlKVTypes[k.Name], ggmlKVTypes[v.Name], 128, 128) {
				return C.GoString(C.ggml_backend_dev_name(dev))
			}
		}
	}

	return ""
}
