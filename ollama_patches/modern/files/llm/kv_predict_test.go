// SPDX-License-Identifier: MIT

package llm

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ollama/ollama/fs/ggml"
)

var (
	// Gemma 3 270M: every sixth layer is full, which the file does not say.
	kvGemma = ggml.KV{
		"block_count": uint32(18), "embedding_length": uint32(640), "attention.head_count": uint32(4),
		"attention.head_count_kv": uint32(1), "attention.key_length": uint32(256), "attention.value_length": uint32(256),
		"attention.sliding_window": uint32(512),
	}
	// Qwen3.5 27B: 16 of 64 layers have attention.
	kvQwen = ggml.KV{
		"block_count": uint32(64), "embedding_length": uint32(5120), "attention.head_count": uint32(24),
		"attention.head_count_kv": uint32(4), "attention.key_length": uint32(256), "attention.value_length": uint32(256),
		"full_attention_interval": uint32(4), "ssm.conv_kernel": uint32(4), "ssm.inner_size": uint32(6144),
		"ssm.state_size": uint32(128), "ssm.group_count": uint32(16), "ssm.time_step_rank": uint32(48),
	}
	kvLlama = ggml.KV{
		"block_count": uint32(16), "embedding_length": uint32(2048), "attention.head_count": uint32(32),
		"attention.head_count_kv": uint32(8),
	}
	kvMLA = ggml.KV{
		"block_count": uint32(27), "embedding_length": uint32(2048), "attention.head_count": uint32(16),
		"attention.head_count_kv": uint32(1), "attention.key_length": uint32(576), "attention.value_length": uint32(512),
		"attention.key_length_mla": uint32(192), "attention.value_length_mla": uint32(128),
	}
	kvOSS = ggml.KV{
		"block_count": uint32(24), "embedding_length": uint32(2880), "attention.head_count": uint32(64),
		"attention.head_count_kv": uint32(8), "attention.key_length": uint32(64), "attention.value_length": uint32(64),
		"attention.sliding_window": uint32(128),
	}
)

func repeat[T any](n int, values ...T) []T {
	return slices.Repeat(values, n)
}

// Bytes are those of `tqconvert plan` for the same header, context, slots, types and batch.
func TestPredictedKVCache(t *testing.T) {
	zeros := with(kvQwen, "attention.head_count_kv", repeat(16, int32(0), 0, 0, 4))
	delete(zeros, "full_attention_interval")
	mixed := with(kvGemma, "general.kv_cache.type_v", "turbo3",
		"general.kv_cache.type_k", append(repeat(6, "q8_0"), repeat(12, "turbo4")...))
	tagged := with(kvGemma, "general.kv_cache.type_k", "turbo4", "general.kv_cache.type_v", "turbo4")
	for _, tt := range []struct {
		name       string
		arch       string
		keys       ggml.KV
		ctx, slots int
		types      string
		batch      int
		want       uint64
	}{
		{"windows", "gemma3", kvGemma, 32768, 1, "", 512, 116391936},
		{"windows, q8_0", "gemma3", kvGemma, 32768, 1, "q8_0", 512, 61833216},
		{"sides differ", "gemma3", kvGemma, 4096, 1, "q8_0/turbo3", 512, 10285056},
		{"two slots, large batch", "gemma3", kvGemma, 4096, 2, "turbo4", 1024, 18653184},
		{"tags", "gemma3", tagged, 4096, 1, "", 512, 7299072},
		{"an option over the tags", "gemma3", tagged, 32768, 1, "f16", 512, 116391936},
		{"a tag for each layer", "gemma3", mixed, 4096, 1, "", 512, 7704576},
		{"hybrid", "qwen35", kvQwen, 32768, 1, "", 512, 2304376832},
		{"hybrid, turbo4", "qwen35", kvQwen, 131072, 1, "turbo4", 512, 2371485696},
		{"hybrid, two slots", "qwen35", kvQwen, 131072, 2, "q8_0/turbo3", 512, 6554910720},
		{"hybrid by an array of heads", "qwen35", zeros, 32768, 1, "", 512, 2304376832},
		{"hybrid with a draft head", "qwen35", with(kvQwen, "block_count", uint32(65), "nextn_predict_layers", uint32(1)), 32768, 1, "", 512, 2304376832},
		{"full attention", "llama", kvLlama, 8192, 1, "q8_0/q4_0", 512, 109051904},
		{"latent", "deepseek2", kvMLA, 8192, 1, "q8_0", 512, 135364608},
		{"every second layer, by Ollama's name", "gptoss", kvOSS, 131072, 1, "f16/q8_0", 512, 2480701440},
		{"no cache", "bert", kvLlama, 8192, 1, "", 512, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := kvOptions(tt.types, "", "")
			opts.NumBatch = tt.batch
			got := predictKVCache(kvModel(t, tt.arch, tt.keys), tt.ctx*tt.slots, tt.slots, opts, 1)
			if got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
		})
	}
}

// Tags that cannot be had are f16: one name for all layers, a name of several for its layer.
func TestPredictionOfUnusableTags(t *testing.T) {
	const perLayer = 4096 * 256 // values of one side of a layer
	f16, turbo4 := uint64(perLayer*2), uint64(perLayer/128*66)
	for _, tt := range []struct {
		name string
		fa   string
		k, v any
		want uint64
	}{
		{"no such type", "", "turbo9", "turbo4", 2*f16 + 2*turbo4},
		{"no such type in one layer", "", []string{"turbo9", "turbo4"}, "turbo4", f16 + 3*turbo4},
		{"too many names", "", repeat(5, "turbo4"), "turbo4", 2*f16 + 2*turbo4},
		{"no flash attention for V", "0", "turbo4", "turbo4", 2*turbo4 + 2*f16},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("OLLAMA_FLASH_ATTENTION", tt.fa)
			f := kvModel(t, "llama", with(kvHeads, "general.kv_cache.type_k", tt.k, "general.kv_cache.type_v", tt.v))
			if got := predictKVCache(f, 4096, 1, kvOptions("", "", ""), 0); got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
		})
	}
}

// An architecture without a rule counts as full attention in every layer, with the state that its keys describe.
func TestPredictionOfUnknownArchitectureIsABound(t *testing.T) {
	f := kvModel(t, "nova", with(kvHeads, "attention.head_count_kv", []int32{0, 1}, "ssm.inner_size", uint32(64),
		"ssm.conv_kernel", uint32(4), "ssm.state_size", uint32(8)))
	want := uint64(2*2*4096*256*2 + 2*4*(3*64+64*8))
	if got := predictKVCache(f, 4096, 1, kvOptions("", "", ""), 0); got != want {
		t.Errorf("%d, want %d", got, want)
	}
}

// The prediction is the file and the cache; without layers in the header the cache is stock's.
func TestPredictServerVRAM(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weights")
	if err := os.WriteFile(path, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := PredictServerVRAM(path, kvModel(t, "llama", kvLlama), 8192, 1, kvOptions("q8_0/q4_0", "", "")); got != 109051904+1000 {
		t.Errorf("%d", got)
	}
	if got := predictKVCache(kvModel(t, "llama", ggml.KV{"embedding_length": uint32(1)}), 8192, 1, kvOptions("", "", ""), 77); got != 77 {
		t.Errorf("%d", got)
	}
}
