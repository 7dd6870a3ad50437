package ggml

import (
	"testing"

	"github.com/ollama/ollama/ml"
)

func TestEstimateTakesTheBytesOfBlocks(t *testing.T) {
	f := GGML{model: &gguf{kv: KV{
		"general.architecture":          "llama",
		"llama.block_count":             uint32(2),
		"llama.attention.head_count":    uint32(4),
		"llama.attention.head_count_kv": uint32(2),
		"llama.attention.key_length":    uint32(256),
		"llama.attention.value_length":  uint32(128),
		"llama.embedding_length":        uint32(512),
		"tokenizer.ggml.tokens":         &array[string]{size: 8},
	}}}

	cases := []struct {
		types string
		want  uint64
	}{
		{"", 1024 * 2 * (256 + 128) * 2},
		{"f16", 1024 * 2 * (256 + 128) * 2},
		{"turbo4", 1024 * 2 * (256 + 128) / 128 * 66},
		{"turbo3?", 1024 * 2 * (256 + 128) / 128 * 50},
		{"q8_0/turbo2", 1024 * 2 * (256/32*34 + 34)},
	}
	for _, c := range cases {
		kv, _, _ := f.GraphSize(1024, 512, 1, c.types, ml.FlashAttentionEnabled)
		for layer, got := range kv {
			if got != c.want {
				t.Errorf("%q layer %d: %d bytes, want %d", c.types, layer, got, c.want)
			}
		}
	}
}

func TestKnownTypes(t *testing.T) {
	var f GGML
	for _, name := range []string{"", "f16", "q8_0", "turbo4", "q8_0/turbo4", "f16,turbo3?/turbo4?"} {
		if !f.SupportsKVCacheType(name) {
			t.Errorf("%q is not known", name)
		}
	}
	for _, name := range []string{"turbo5", "q8_0/"} {
		if f.SupportsKVCacheType(name) {
			t.Errorf("%q is known", name)
		}
	}
}
