// SPDX-License-Identifier: MIT

package llm

import (
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/envconfig"
	"github.com/ollama/ollama/fs/ggml"
	"github.com/ollama/ollama/ml"
)

// predictKVCache is the number of bytes that llama-server will take for caches and recurrent states of numParallel
// sequences, with a context of numCtx tokens for all of them together. Models whose layers cannot be read get stock's
// estimate.
func predictKVCache(f *ggml.GGML, numCtx, numParallel int, opts api.Options, stock uint64) uint64 {
	if f.KV().BlockCount() == 0 {
		return stock
	}
	layout := kvLayoutOf(f.KV())
	typesK, typesV := predictKVTypes(f.KV(), layout, opts)

	sequences := uint64(max(numParallel, 1))
	cells := padCells(padCells(uint64(max(numCtx, 0))) / sequences)
	batch := uint64(512)
	if opts.NumBatch > 0 {
		batch = uint64(opts.NumBatch)
	}
	batch = min(batch, uint64(max(numCtx, 0)))

	var total uint64
	for i, layer := range layout.layers {
		rows := cells
		if layer.window > 0 {
			rows = padCells(min(cells, layer.window+batch))
		}
		token := typesK[i].size(layer.heads * layer.dimK)
		if !layout.latent {
			token += typesV[i].size(layer.heads * layer.dimV)
		}
		total += (token*rows + layer.state*4) * sequences
	}
	return total
}

// padCells rounds up as llama.cpp rounds contexts and windows.
func padCells(n uint64) uint64 { return (n + 255) / 256 * 256 }

// predictKVTypes are the types that each layer will have, by what was asked for, else by the GGUF's tags.
func predictKVTypes(kv ggml.KV, layout kvLayout, opts api.Options) (k, v []kvType) {
	askedK, askedV, err := askedKVTypes(opts, envconfig.KvCacheType())
	if err == nil {
		askedK, askedV, _, err = usableKVTypes(layout, askedK, askedV)
	}
	if err != nil { // the load will say it
		askedK, askedV = kvAsked{kvF16, ""}, kvAsked{kvF16, ""}
	}
	return layout.types(kv, askedK, true), layout.types(kv, askedV, false)
}

// types are those of one side by layer. A tag that a layer cannot have is f16, as in the patched llama-server: for that
// layer if there is a name for each, else for all.
func (l kvLayout) types(kv ggml.KV, asked kvAsked, isK bool) []kvType {
	types := make([]kvType, len(l.layers))
	for i := range types {
		types[i] = kvF16
		if asked.name != "" {
			types[i] = asked.kvType
		}
	}
	key := map[bool]string{true: "general.kv_cache.type_k", false: "general.kv_cache.type_v"}[isK]
	names := kv.Strings(key)
	if name := kv.String(key); name != "" {
		names = []string{name}
	}
	if asked.name != "" || (len(names) != 1 && len(names) != len(types) && len(names) != l.trunk) {
		return types
	}
	off := !isK && LlamaServerFlashAttention(nil) == ml.FlashAttentionDisabled
	if len(names) == 1 {
		t, ok := kvTypeOf(names[0])
		if ok && !(off && t.quantized()) && l.unusable(t, isK) == "" {
			for i := range types {
				types[i] = t
			}
		}
		return types
	}
	for i, name := range names {
		t, ok := kvTypeOf(name)
		if ok && !(off && t.quantized()) && !(t.turbo() && l.latent) && l.dim(i, isK)%t.values == 0 {
			types[i] = t
		}
	}
	return types
}
