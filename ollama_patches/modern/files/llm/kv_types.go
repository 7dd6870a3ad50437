// SPDX-License-Identifier: MIT

package llm

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/envconfig"
	"github.com/ollama/ollama/fs/ggml"
	"github.com/ollama/ollama/ml"
)

// ErrKVCacheType is wrapped by errors about cache types that were asked for and cannot be had.
var ErrKVCacheType = errors.New("K/V cache type")

// kvType is a type of the cache, by the name that llama-server takes. A block of so many values of one head has so
// many bytes.
type kvType struct {
	name          string
	values, bytes uint64
}

var kvTypes = []kvType{
	{"f32", 1, 4}, {"f16", 1, 2}, {"bf16", 1, 2},
	{"q8_0", 32, 34}, {"q5_1", 32, 24}, {"q5_0", 32, 22}, {"iq4_nl", 32, 18}, {"q4_1", 32, 20}, {"q4_0", 32, 18},
	{"turbo4", 128, 66}, {"turbo3", 128, 50}, {"turbo2", 128, 34},
}

var kvF16 = kvTypes[1]

func (t kvType) quantized() bool { return t.values > 1 }

func (t kvType) turbo() bool { return strings.HasPrefix(t.name, "turbo") }

// size is the number of bytes of so many values, whole blocks.
func (t kvType) size(values uint64) uint64 { return values / t.values * t.bytes }

func kvTypeOf(name string) (kvType, bool) {
	for _, t := range kvTypes {
		if t.name == name {
			return t, true
		}
	}
	return kvType{}, false
}

// kvTypeNames lists the types whose blocks divide the head dimension; all of them for dimension 0.
func kvTypeNames(dim uint64) string {
	var names []string
	for _, t := range kvTypes {
		if dim%t.values == 0 {
			names = append(names, t.name)
		}
	}
	return strings.Join(names, ", ")
}

// kvAsked is the type of one side of the cache and who asks for it; without a name it is left to the model's GGUF.
type kvAsked struct {
	kvType
	by string
}

const kvEnv = "OLLAMA_KV_CACHE_TYPE"

// askedKVTypes takes, for each side, the strongest that names a type: the option of that side, the option for both,
// the environment. Both of the latter may be TYPE or TYPE_K/TYPE_V.
func askedKVTypes(opts api.Options, env string) (k, v kvAsked, err error) {
	set := func(side *kvAsked, name, by string) {
		name = strings.ToLower(strings.TrimSpace(name))
		if name == "" || err != nil {
			return
		}
		t, ok := kvTypeOf(name)
		if !ok {
			err = fmt.Errorf("%w: %s: %q is not one (%s)", ErrKVCacheType, by, name, kvTypeNames(0))
		}
		*side = kvAsked{t, by}
	}
	setBoth := func(value, by string) {
		forK, forV, found := strings.Cut(strings.ReplaceAll(value, ":", "/"), "/")
		if !found {
			forV = forK
		}
		set(&k, forK, by)
		set(&v, forV, by)
	}
	setBoth(env, kvEnv)
	setBoth(opts.KvCacheType, "kv_cache_type")
	set(&k, opts.KvCacheTypeK, "kv_cache_type_k")
	set(&v, opts.KvCacheTypeV, "kv_cache_type_v")
	return k, v, err
}

// usableKVTypes drops what the model's cache cannot be. Of an option that is an error. The environment speaks for all
// models, so the side is left to the GGUF, and the reason is returned.
func usableKVTypes(layout kvLayout, k, v kvAsked) (_, _ kvAsked, ignored []string, err error) {
	drop := func(side *kvAsked, reason string) {
		switch {
		case side.name == "" || reason == "":
		case side.by == kvEnv:
			ignored = append(ignored, reason)
			*side = kvAsked{}
		case err == nil:
			err = fmt.Errorf("%w: %s: %s", ErrKVCacheType, side.by, reason)
		}
	}
	drop(&k, layout.unusable(k.kvType, true))
	drop(&v, layout.unusable(v.kvType, false))
	if layout.latent && k.name != v.name {
		const reason = "this model (MLA) takes equal types for K and V only"
		drop(&k, reason)
		drop(&v, reason)
	}
	return k, v, ignored, err
}

// resolveKVCacheTypes returns the flags' values as "K/V"; a side is empty where llama-server takes it from the GGUF.
// The names are checked here, so that nothing is started in vain.
func resolveKVCacheTypes(f *ggml.GGML, gpus []ml.DeviceInfo, opts api.Options) (string, error) {
	layout := kvLayoutOf(f.KV())
	k, v, err := askedKVTypes(opts, envconfig.KvCacheType())
	if err != nil || !layout.stores() {
		return "", err
	}
	k, v, ignored, err := usableKVTypes(layout, k, v)
	if err != nil {
		return "", err
	}
	for _, reason := range ignored {
		slog.Warn(kvEnv+" is not used for this model", "reason", reason)
	}
	if v.quantized() && LlamaServerFlashAttention(gpus) == ml.FlashAttentionDisabled {
		return "", fmt.Errorf("%w: %s: V as %s needs flash attention, which is off (unset OLLAMA_FLASH_ATTENTION, a GPU "+
			"that has it, or one of f32, f16, bf16)", ErrKVCacheType, v.by, v.name)
	}
	if k.name == "" && v.name == "" {
		return "", nil
	}
	slog.Info("K/V cache types", "k", k.name, "k_by", k.by, "v", v.name, "v_by", v.by)
	return k.name + "/" + v.name, nil
}

func appendKVCacheTypeArgs(params []string, types string) []string {
	k, v, _ := strings.Cut(types, "/")
	if k != "" {
		params = append(params, "--cache-type-k", k)
	}
	if v != "" {
		params = append(params, "--cache-type-v", v)
	}
	return params
}

// appendFlashAttentionArgsFor is appendFlashAttentionArgs, but leaves nothing to chance where V is quantized.
func appendFlashAttentionArgsFor(params []string, gpus []ml.DeviceInfo, types string) []string {
	_, name, _ := strings.Cut(types, "/")
	if v, ok := kvTypeOf(name); ok && v.quantized() && LlamaServerFlashAttention(gpus) == ml.FlashAttentionAuto {
		return append(params, "--flash-attn", "on")
	}
	return appendFlashAttentionArgs(params, gpus)
}
