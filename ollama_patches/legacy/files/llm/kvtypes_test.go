package llm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ollama/ollama/fs/ggml"
	"github.com/ollama/ollama/ml"
)

// modelOf returns a model of two layers with heads of 128 and the keys given beside.
func modelOf(t *testing.T, arch string, own ggml.KV) *ggml.GGML {
	t.Helper()
	kv := ggml.KV{"general.architecture": arch}
	for key, value := range map[string]uint32{
		"block_count": 2, "context_length": 4096, "embedding_length": 512, "attention.head_count": 4,
		"attention.head_count_kv": 2, "attention.key_length": 128, "attention.value_length": 128,
	} {
		kv[arch+"."+key] = value
	}
	for key, value := range own {
		kv[key] = value
	}

	path := filepath.Join(t.TempDir(), "model.gguf")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := ggml.WriteGGUF(f, kv, nil); err != nil {
		t.Fatal(err)
	}
	f.Close()

	model, err := LoadModel(path, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return model
}

func TestChooseKVTypes(t *testing.T) {
	const k, v = "general.kv_cache.type_k", "general.kv_cache.type_v"
	cases := []struct {
		name     string
		arch     string
		engine   bool // Ollama's own
		env, fa  string
		own      ggml.KV
		gpus     []ml.DeviceInfo
		want     string
		err      string
		faAfter  bool
		faBefore bool
	}{
		{name: "nobody asks"},
		{name: "environment", env: "Turbo4", want: "turbo4", faAfter: true},
		{name: "a pair", env: "q8_0/turbo4", want: "q8_0/turbo4", faAfter: true},
		{name: "a pair with a colon", env: "q8_0:turbo4", want: "q8_0/turbo4", faAfter: true},
		{name: "f16 needs nothing", env: "f16", want: "f16", own: ggml.KV{k: "turbo4", v: "turbo4"}},
		{name: "unknown", env: "turbo5", err: `OLLAMA_KV_CACHE_TYPE: "turbo5" is no KV cache type (one of f32, f16`},
		{name: "the model", own: ggml.KV{k: "turbo4", v: "turbo4"}, want: "turbo4?", faAfter: true},
		{name: "the model, one key", own: ggml.KV{v: "turbo3"}, want: "f16?/turbo3?", faAfter: true},
		{name: "the environment wins", env: "q8_0", own: ggml.KV{k: "turbo4", v: "turbo4"}, want: "q8_0", faAfter: true},
		{name: "the model, unknown", own: ggml.KV{k: "turbo4", v: "tq9"}, want: "turbo4?/f16?", faAfter: true},
		{name: "by layer", engine: true, own: ggml.KV{k: []string{"f16", "turbo4"}}, want: "f16,turbo4?/f16?", faAfter: true},
		{name: "by layer, all alike", own: ggml.KV{k: []string{"turbo4", "turbo4"}}, want: "turbo4?/f16?", faAfter: true},
		{name: "by layer, llama.cpp", own: ggml.KV{k: []string{"f16", "turbo4"}, v: "q8_0"}, want: "f16?/q8_0?", faAfter: true},
		{name: "by layer, too few", engine: true, own: ggml.KV{k: []string{"turbo4"}, v: "q8_0"}, want: "f16?/q8_0?", faAfter: true},
		{name: "by layer, draft head", engine: true, own: ggml.KV{k: []string{"turbo4"}, "llama.nextn_predict_layers": uint32(1)}, want: "turbo4?/f16?", faAfter: true},
		{
			name: "head dimension", env: "turbo4", own: ggml.KV{"llama.attention.key_length": uint32(80)},
			err: "K: turbo4 has blocks of 128, the head dimension is 80 (types that fit: f32, f16, bf16)",
		},
		{
			name: "head dimension, the model", own: ggml.KV{k: "turbo4", v: "turbo4", "llama.attention.key_length": uint32(64), "llama.attention.value_length": uint32(64)},
		},
		{
			name: "latent attention", arch: "glm4moelite", engine: true, env: "turbo4", own: ggml.KV{"glm4moelite.attention.kv_lora_rank": uint32(512)},
			err: "no turbo types with multi-head latent attention",
		},
		{name: "latent attention, q8_0", arch: "glm4moelite", engine: true, env: "q8_0", own: ggml.KV{"glm4moelite.attention.kv_lora_rank": uint32(512)}, want: "q8_0", faBefore: true, faAfter: true},
		{name: "flash attention off", env: "turbo4", fa: "0", err: "K turbo4, V turbo4: needs flash attention: OLLAMA_FLASH_ATTENTION is off (set it to 1, or leave it out)"},
		{name: "flash attention off, the model", fa: "0", own: ggml.KV{k: "turbo4", v: "turbo4"}},
		{name: "no flash attention", arch: "gemma2", env: "q8_0", err: "Ollama has none for gemma2 (OLLAMA_KV_CACHE_TYPE=f16 loads the model)"},
		{name: "dimensions differ", env: "q8_0", own: ggml.KV{"llama.attention.key_length": uint32(256)}, err: "Ollama has none for llama"},
		{name: "an old GPU", env: "turbo4", gpus: []ml.DeviceInfo{{DeviceID: ml.DeviceID{Library: "CUDA"}, ComputeMajor: 6}}, err: "a GPU of this machine has none"},
		{name: "an embedding model", env: "turbo4", own: ggml.KV{"llama.pooling_type": uint32(1)}},
		{name: "flash attention is on already", engine: true, arch: "qwen35", env: "turbo4", faBefore: true, faAfter: true, want: "turbo4"},
	}

	for _, c := range cases {
		for _, engine := range []bool{c.engine, true} {
			if engine && !c.engine && (strings.Contains(c.name, "head dimension") || strings.Contains(c.name, "llama.cpp")) {
				continue // the Go engine's cache decides
			}
			t.Run(fmt.Sprintf("%s/%v", c.name, engine), func(t *testing.T) {
				t.Setenv("OLLAMA_KV_CACHE_TYPE", c.env)
				t.Setenv("OLLAMA_FLASH_ATTENTION", c.fa)
				arch := c.arch
				if arch == "" {
					arch = "llama"
				}
				fa, faUserSet := c.faBefore, c.fa != ""

				got, err := chooseKVTypes(modelOf(t, arch, c.own), c.gpus, engine, &fa, &faUserSet)
				if c.err != "" {
					if err == nil || !strings.Contains(err.Error(), c.err) {
						t.Fatalf("error %v, want %q", err, c.err)
					}
					return
				}
				if err != nil || got != c.want || fa != c.faAfter {
					t.Errorf("%q %v, flash attention %v, want %q %v", got, err, fa, c.want, c.faAfter)
				}
			})
		}
	}
}
