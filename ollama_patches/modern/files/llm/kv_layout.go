// SPDX-License-Identifier: MIT

package llm

import (
	"fmt"

	"github.com/ollama/ollama/fs/ggml"
)

// kvLayer is what a layer of the model keeps.
type kvLayer struct {
	heads      uint64 // of K and V; 0 where it has no cache of its own
	dimK, dimV uint64 // of one head
	window     uint64 // tokens that are kept; 0 means all
	state      uint64 // f32 values per sequence of a recurrent layer
}

// kvLayout holds the layers as llama-server will cache them. Layers of a draft head at the end have none.
type kvLayout struct {
	layers []kvLayer
	trunk  int  // layers before those of the draft head
	latent bool // one vector for K and V (MLA), of which V is no copy
}

// stores tells whether there is a cache at all.
func (l kvLayout) stores() bool {
	for _, layer := range l.layers {
		if layer.heads > 0 {
			return true
		}
	}
	return false
}

// unusable says why the type cannot hold a side of the cache; it is empty where it can.
func (l kvLayout) unusable(t kvType, isK bool) string {
	if !t.quantized() {
		return ""
	}
	if t.turbo() && l.latent {
		return fmt.Sprintf("%s cannot hold the latent K of this model (MLA), q8_0 can", t.name)
	}
	for i := range l.layers {
		if dim := l.dim(i, isK); dim%t.values != 0 {
			return fmt.Sprintf("%s has blocks of %d, the head dimension of layer %d is %d (types that fit: %s)",
				t.name, t.values, i, dim, kvTypeNames(dim))
		}
	}
	return ""
}

// dim is the head dimension of a layer that stores the side, else 0.
func (l kvLayout) dim(i int, isK bool) uint64 {
	switch layer := l.layers[i]; {
	case layer.heads == 0:
		return 0
	case isK:
		return layer.dimK
	default:
		return layer.dimV
	}
}

// kvWindows are architectures whose layers slide but for one of each period, the last or the first. The window is the
// file's, else this one; without any the model has full attention everywhere.
var kvWindows = map[string]struct {
	period     uint32
	window     uint32
	denseFirst bool
}{
	"afmoe": {period: 4}, "cohere2": {period: 4}, "cohere2moe": {period: 4, denseFirst: true},
	"exaone-moe": {period: 4, window: 128}, "gemma2": {period: 2, window: 4096}, "gemma3": {period: 6},
	"gemma3n": {period: 5}, "gpt-oss": {period: 2}, "gptoss": {period: 2}, "laguna": {period: 4, denseFirst: true},
	"mellum": {period: 4}, "muse-glimmer": {period: 4}, "olmo2": {period: 4}, "olmo3": {period: 4}, "plamo3": {period: 8},
	"granite_swa": {}, "maple": {}, "mimo2": {}, "spark2_5": {}, "step35": {}, "gemma4": {}, // listed in the file
}

// kvLayoutOf reads the layers from a model's keys, as llama.cpp does for its architecture. Architectures without a rule
// count as full attention in every layer: exact where they have no windows and no state, else an upper bound.
func kvLayoutOf(kv ggml.KV) kvLayout {
	n := int(min(kv.BlockCount(), 512)) // llama.cpp's limit
	nextn := int(kv.Uint("nextn_predict_layers"))
	r := kvReader{kv: kv, layout: kvLayout{layers: make([]kvLayer, n), trunk: max(n-nextn, 0)}}
	if n == 0 || kvHasNoCache[kv.Architecture()] {
		return kvLayout{}
	}
	r.trunkOnly = r.layout.trunk > 0
	r.readHeads()
	switch arch := kv.Architecture(); arch {
	case "qwen35", "qwen35moe", "qwen3next":
		r.deltaNet()
	case "mamba", "mamba2", "jamba", "granitehybrid", "plamo2", "nemotron_h", "nemotron_h_moe", "falcon-h1", "lfm2", "lfm2moe":
		r.hybrid(arch)
	case "deepseek2", "mistral4":
		r.layout.latent = kv.Uint("attention.key_length_mla") > 0 && kv.Uint("attention.value_length_mla") > 0
	case "llama4":
		if kv.Uint("attention.sliding_window", 1) > 0 {
			r.slide(8192, 4, false) // chunks, whatever size the file says
		}
	case "smallthinker":
		if kv.Uint("attention.sliding_window") > 0 {
			r.slide(4096, 4, true)
		}
	case "exaone4":
		if r.layout.trunk == 64 {
			r.slide(kv.Uint("attention.sliding_window", 4096), 4, false)
		}
	case "deci", "openelm", "phi3": // heads by layer, and a window that llama.cpp does not use
	default:
		rule, ok := kvWindows[arch]
		if ok {
			r.slide(kv.Uint("attention.sliding_window", rule.window), rule.period, rule.denseFirst)
		} else {
			r.assumeMost()
		}
	}
	return r.finish()
}

var kvHasNoCache = map[string]bool{
	"bert": true, "clip": true, "dream": true, "eurobert": true, "gemma-embedding": true, "jina-bert-v2": true,
	"jina-bert-v3": true, "llada": true, "llada-moe": true, "modern-bert": true, "neo-bert": true, "nomic-bert": true,
	"nomic-bert-moe": true, "rnd1": true, "wavtokenizer-dec": true,
}

// kvReader is the layout while it is read.
type kvReader struct {
	kv        ggml.KV
	layout    kvLayout
	heads     uint64 // of the first layer's query
	recurrent []bool // by layer; set for those that have a state and no attention
	state     uint64 // f32 values of each of them
	beside    bool   // states beside attention, in every layer
	trunkOnly bool   // the draft head has no cache in this context
}

func (r *kvReader) perLayer(key string, fallback []uint64) []uint64 {
	values := make([]uint64, len(r.layout.layers))
	if r.kv.Value(r.kv.Architecture()+"."+key) == nil {
		copy(values, fallback)
		return values
	}
	read := r.kv.UintOrArrayValueAsArray(key, 0)
	for i := range values {
		switch {
		case len(read) == 1:
			values[i] = uint64(read[0])
		case i < len(read):
			values[i] = uint64(read[i])
		}
	}
	return values
}

func (r *kvReader) readHeads() {
	heads := r.perLayer("attention.head_count", nil)
	headsKV := r.perLayer("attention.head_count_kv", heads)
	r.heads = heads[0]
	r.recurrent = make([]bool, len(heads))
	even := uint32(r.kv.EmbeddingLength() / max(heads[0], 1))
	for i := range r.layout.layers {
		r.layout.layers[i].heads = headsKV[i]
		if r.heads > 0 { // else llama.cpp does not read the dimensions
			r.layout.layers[i].dimK = uint64(r.kv.Uint("attention.key_length", even))
			r.layout.layers[i].dimV = uint64(r.kv.Uint("attention.value_length", even))
		}
	}
}

// assumeMost gives every layer the most heads that one has, and the state that the keys describe.
func (r *kvReader) assumeMost() {
	most := uint64(0)
	for _, layer := range r.layout.layers {
		most = max(most, layer.heads)
	}
	for i := range r.layout.layers {
		r.layout.layers[i].heads = most
	}
	if r.kv.Uint("ssm.inner_size") > 0 {
		r.readState(true)
		r.beside, r.trunkOnly = true, false
	}
}

// slide sets the layers' windows, by the file's pattern or period if it has one.
func (r *kvReader) slide(window, period uint32, denseFirst bool) {
	const key = "attention.sliding_window_pattern"
	listed := r.kv.Bools(key)
	if listed == nil {
		for _, x := range r.kv.Uints(key) {
			listed = append(listed, x != 0)
		}
	}
	period = r.kv.Uint(key, period)
	if window == 0 || (listed == nil && period == 0 && r.kv.Value(r.kv.Architecture()+"."+key) == nil) {
		return
	}
	for i := range r.layout.layers {
		layer := &r.layout.layers[i]
		slides := i < len(listed) && listed[i]
		if listed == nil && i < r.layout.trunk {
			at := uint32(i)
			slides = period == 0 || (denseFirst && at%period != 0) || (!denseFirst && at%period < period-1)
		}
		if slides {
			layer.window = uint64(window)
			layer.dimK = uint64(r.kv.Uint("attention.key_length_swa", uint32(layer.dimK)))
			layer.dimV = uint64(r.kv.Uint("attention.value_length_swa", uint32(layer.dimV)))
		}
	}
}

// finish takes the heads of layers that have no cache of their own, and writes the states.
func (r *kvReader) finish() kvLayout {
	own := len(r.layout.layers)
	switch r.kv.Architecture() {
	case "gemma3n":
		own = 20 // the others read these layers' caches
	case "gemma4":
		own -= int(r.kv.Uint("attention.shared_kv_layers"))
	}
	for i := range r.layout.layers {
		layer := &r.layout.layers[i]
		none := r.trunkOnly && i >= r.layout.trunk
		if none || i >= own || r.recurrent[i] {
			layer.heads = 0
		}
		if !none && (r.beside || r.recurrent[i]) {
			layer.state = r.state
		}
	}
	return r.layout
}
