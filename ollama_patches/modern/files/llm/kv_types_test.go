// SPDX-License-Identifier: MIT

package llm

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/fs/ggml"
	"github.com/ollama/ollama/ml"
)

// kvModel is the header of a GGUF with these keys, written and read.
func kvModel(t *testing.T, arch string, keys ggml.KV) *ggml.GGML {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.gguf")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	all := ggml.KV{"general.architecture": arch}
	for key, value := range keys {
		all[key] = value
	}
	if err := ggml.WriteGGUF(file, all, nil); err != nil {
		t.Fatal(err)
	}
	f, err := LoadModel(path, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func with(keys ggml.KV, more ...any) ggml.KV {
	all := ggml.KV{}
	for key, value := range keys {
		all[key] = value
	}
	for i := 0; i < len(more); i += 2 {
		all[more[i].(string)] = more[i+1]
	}
	return all
}

// kvHeads is a model whose heads hold 256 values.
var kvHeads = ggml.KV{
	"block_count": uint32(2), "embedding_length": uint32(1024), "attention.head_count": uint32(4),
	"attention.head_count_kv": uint32(1), "attention.key_length": uint32(256), "attention.value_length": uint32(256),
}

func kvOptions(both, k, v string) api.Options {
	opts := api.DefaultOptions()
	opts.KvCacheType, opts.KvCacheTypeK, opts.KvCacheTypeV = both, k, v
	return opts
}

// Options of a side are stronger than the one for both, and that than the environment; an empty side is the GGUF's.
func TestKVCacheTypesByStrength(t *testing.T) {
	for _, tt := range []struct{ env, both, k, v, want string }{
		{"", "", "", "", ""},
		{"q8_0", "", "", "", "q8_0/q8_0"},
		{"Q8_0/Turbo3", "", "", "", "q8_0/turbo3"},
		{"q8_0:turbo3", "", "", "", "q8_0/turbo3"},
		{"/turbo3", "", "", "", "/turbo3"},
		{"q8_0/", "", "", "", "q8_0/"},
		{"q8_0", "turbo4", "", "", "turbo4/turbo4"},
		{"q8_0", "", "f16", "", "f16/q8_0"},
		{"", "turbo4/turbo3", "", "turbo2", "turbo4/turbo2"},
		{"", "", "", "turbo2", "/turbo2"},
	} {
		t.Setenv(kvEnv, tt.env)
		got, err := resolveKVCacheTypes(kvModel(t, "llama", kvHeads), nil, kvOptions(tt.both, tt.k, tt.v))
		if err != nil || got != tt.want {
			t.Errorf("%+v: %q, %v", tt, got, err)
		}
	}
}

// A name that is none is an error that says where it stands and what can stand there.
func TestKVCacheTypesAreChecked(t *testing.T) {
	for _, tt := range []struct{ env, both, k, v, want string }{
		{"tq3", "", "", "", `OLLAMA_KV_CACHE_TYPE: "tq3" is not one (f32, f16, bf16, q8_0, `},
		{"", "q8_0/turbo1", "", "", `kv_cache_type: "turbo1" is not one`},
		{"", "", "q8_0/q8_0", "", `kv_cache_type_k: "q8_0/q8_0" is not one`},
		{"q8", "f16", "", "", `OLLAMA_KV_CACHE_TYPE: "q8" is not one`},
	} {
		t.Setenv(kvEnv, tt.env)
		_, err := resolveKVCacheTypes(kvModel(t, "llama", kvHeads), nil, kvOptions(tt.both, tt.k, tt.v))
		if !errors.Is(err, ErrKVCacheType) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

// What the heads do not take is an error as an option; of the environment, which speaks for all models, it is dropped.
func TestKVCacheTypesMustFitTheModel(t *testing.T) {
	narrow := with(kvHeads, "attention.key_length", uint32(64), "attention.value_length", uint32(64))
	mla := with(kvHeads, "attention.key_length_mla", uint32(192), "attention.value_length_mla", uint32(128))
	for _, tt := range []struct {
		arch      string
		keys      ggml.KV
		env, both string
		want, err string
	}{
		{"llama", narrow, "turbo4/q8_0", "", "/q8_0", ""},
		{"llama", narrow, "", "turbo4", "", "kv_cache_type: turbo4 has blocks of 128, the head dimension of layer 0 is 64 (types that fit: f32, f16, bf16, q8_0,"},
		{"deepseek2", mla, "turbo4", "", "", ""},
		{"deepseek2", mla, "q8_0/q4_0", "", "", ""},
		{"deepseek2", mla, "", "turbo4", "", "turbo4 cannot hold the latent K"},
		{"deepseek2", mla, "", "q8_0/q4_0", "", "takes equal types for K and V only"},
		{"deepseek2", mla, "", "q8_0", "q8_0/q8_0", ""},
		{"bert", kvHeads, "turbo4", "turbo4", "", ""},
	} {
		t.Setenv(kvEnv, tt.env)
		got, err := resolveKVCacheTypes(kvModel(t, tt.arch, tt.keys), nil, kvOptions(tt.both, "", ""))
		if got != tt.want || (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s %q %q: %q, %v", tt.arch, tt.env, tt.both, got, err)
		}
	}
}

// A quantized V switches flash attention on, and is an error where it is off.
func TestQuantizedVNeedsFlashAttention(t *testing.T) {
	f := kvModel(t, "llama", kvHeads)
	old := []ml.DeviceInfo{{DeviceID: ml.DeviceID{Library: "CUDA"}, ComputeMajor: 5}}
	for _, tt := range []struct {
		fa   string
		gpus []ml.DeviceInfo
		v    string
		ok   bool
		want string
	}{
		{"", nil, "turbo3", true, "on"},
		{"", nil, "bf16", true, "auto"},
		{"1", nil, "turbo3", true, "on"},
		{"0", nil, "f16", true, "off"},
		{"0", nil, "turbo3", false, ""},
		{"", old, "q8_0", false, ""},
	} {
		t.Setenv("OLLAMA_FLASH_ATTENTION", tt.fa)
		types, err := resolveKVCacheTypes(f, tt.gpus, kvOptions("", "turbo4", tt.v))
		if (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt, err)
		}
		if args := appendFlashAttentionArgsFor(nil, tt.gpus, types); tt.ok && !slices.Equal(args, []string{"--flash-attn", tt.want}) {
			t.Errorf("%+v: %v", tt, args)
		}
	}
}

// One flag for each side that is asked for; none where both are the GGUF's.
func TestKVCacheTypeArgs(t *testing.T) {
	for types, want := range map[string]string{
		"": "", "turbo4/turbo3": "--cache-type-k turbo4 --cache-type-v turbo3", "/turbo3": "--cache-type-v turbo3",
		"q8_0/": "--cache-type-k q8_0",
	} {
		if got := strings.Join(appendKVCacheTypeArgs(nil, types), " "); got != want {
			t.Errorf("%q: %s", types, got)
		}
	}
}
