// SPDX-License-Identifier: MIT

package llm

// readState takes the size of a state-space layer's convolution history and state.
func (r *kvReader) readState(groups bool) {
	inner, state := uint64(r.kv.Uint("ssm.inner_size")), uint64(r.kv.Uint("ssm.state_size"))
	channels := inner
	if groups {
		channels += 2 * uint64(r.kv.Uint("ssm.group_count")) * state
	}
	r.state = uint64(max(r.kv.Uint("ssm.conv_kernel"), 1)-1)*channels + state*inner
}

// deltaNet is Qwen3-Next and Qwen3.5: one layer of each interval has attention, the others a state. Files that Ollama
// published first say it by an array of heads with zeros.
func (r *kvReader) deltaNet() {
	r.readState(true)
	zeros, heads := 0, 0
	for _, layer := range r.layout.layers[:r.layout.trunk] {
		if layer.heads == 0 {
			zeros++
		} else {
			heads++
		}
	}
	listed := r.kv.Bools("attention.recurrent_layers")
	interval := int(max(r.kv.Uint("full_attention_interval", 4), 1))
	for i := range r.layout.trunk {
		switch {
		case listed != nil:
			r.recurrent[i] = i < len(listed) && listed[i]
		case zeros > 0 && heads > 0:
			r.recurrent[i] = r.layout.layers[i].heads == 0
		default:
			r.recurrent[i] = (i+1)%interval != 0
		}
	}
}

// hybrid is models with states in the layers that have no heads of K and V, in all, or beside attention.
func (r *kvReader) hybrid(arch string) {
	if arch == "lfm2" || arch == "lfm2moe" {
		r.state = r.kv.EmbeddingLength() * uint64(max(r.kv.Uint("shortconv.l_cache"), 1)-1)
	} else {
		r.readState(arch != "mamba" && arch != "jamba")
	}
	r.beside = arch == "falcon-h1"
	if arch != "mamba" && arch != "mamba2" {
		r.trunkOnly = false
	}
	ffn := r.perLayer("feed_forward_length", nil)
	for i := range r.layout.layers {
		layer := &r.layout.layers[i]
		switch {
		case arch == "mamba", arch == "mamba2":
			r.recurrent[i] = true
		case (arch == "nemotron_h" || arch == "nemotron_h_moe") && ffn[i] > 0:
			layer.heads = 0
		case !r.beside:
			r.recurrent[i] = i < r.layout.trunk && layer.heads == 0
		}
		if arch == "lfm2" && !r.recurrent[i] && i < r.layout.trunk {
			layer.window = uint64(r.kv.Uint("attention.sliding_window"))
		}
	}
}
