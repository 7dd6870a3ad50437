package llm

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/ollama/ollama/envconfig"
	"github.com/ollama/ollama/fs/ggml"
	"github.com/ollama/ollama/kvcache/kvtype"
	"github.com/ollama/ollama/ml"
)

const (
	kvKeyK = "general.kv_cache.type_k"
	kvKeyV = "general.kv_cache.type_v"
)

// kvChoice decides the cache types of one model.
type kvChoice struct {
	f        *ggml.GGML
	goEngine bool
	spec     kvtype.Spec
}

// chooseKVTypes returns the cache types of a model, as kvtype.Decode reads them, or "" where nobody
// asks for any. OLLAMA_KV_CACHE_TYPE goes before the model's own keys. A type that was asked for and
// cannot be is an error; one of the model's keys costs a warning, and that side is f16. Flash
// attention is switched on where the types need it and only its default is off.
func chooseKVTypes(f *ggml.GGML, gpus []ml.DeviceInfo, goEngine bool, fa, faUserSet *bool) (string, error) {
	choice := kvChoice{f: f, goEngine: goEngine}

	asked := strings.TrimSpace(envconfig.KvCacheType())
	source := "OLLAMA_KV_CACHE_TYPE"
	if asked != "" {
		spec, err := kvtype.Parse(asked)
		if err != nil {
			return "", fmt.Errorf("%s: %w", source, err)
		}
		choice.spec = spec
	} else {
		choice.spec = kvtype.Spec{K: choice.fromModel(kvKeyK), V: choice.fromModel(kvKeyV)}
		source = "the model"
	}

	if choice.spec.Plain() {
		if asked != "" {
			return choice.spec.String(), nil
		}
		return "", nil
	}

	if _, ok := f.KV()[f.KV().Architecture()+".pooling_type"]; ok {
		// a setting for the whole server must not stop embedding models
		slog.Warn("embedding models have no typed KV cache: f16", "k", choice.spec.K.Types(), "v", choice.spec.V.Types(), "asked for by", source)
		return "", nil
	}

	if err := choice.check(); err != nil {
		return "", fmt.Errorf("OLLAMA_KV_CACHE_TYPE: %w", err)
	}
	if choice.spec.Plain() {
		return "", nil
	}

	if reason := flashAttentionOff(f, gpus, *fa, *faUserSet); reason != "" {
		err := fmt.Errorf("K %s, V %s: needs flash attention: %s", choice.spec.K.Types(), choice.spec.V.Types(), reason)
		if asked != "" {
			return "", fmt.Errorf("OLLAMA_KV_CACHE_TYPE: %w", err)
		}
		slog.Warn("KV cache types of the model: f16 instead", "reason", err)
		return "", nil
	}
	if !*fa {
		slog.Info("flash attention is on for the KV cache types")
	}
	*fa, *faUserSet = true, true

	slog.Info("kv cache types", "k", choice.spec.K.Types(), "v", choice.spec.V.Types(), "asked for by", source)
	return choice.spec.String(), nil
}

// flashAttentionOff returns why there cannot be flash attention; "" where there can.
func flashAttentionOff(f *ggml.GGML, gpus []ml.DeviceInfo, fa, faUserSet bool) string {
	switch {
	case fa:
		return ""
	case faUserSet && !envconfig.FlashAttention(true):
		return "OLLAMA_FLASH_ATTENTION is off (set it to 1, or leave it out)"
	case !ml.FlashAttentionSupported(gpus):
		return "a GPU of this machine has none (OLLAMA_KV_CACHE_TYPE=f16 loads the model)"
	case !f.SupportsFlashAttention():
		return fmt.Sprintf("Ollama has none for %s (OLLAMA_KV_CACHE_TYPE=f16 loads the model)", f.KV().Architecture())
	case envconfig.FlashAttention(f.FlashAttention()):
		return "it is off for this model on this GPU (OLLAMA_KV_CACHE_TYPE=f16 loads the model)"
	}

	return ""
}

// fromModel returns what a key of the model asks for, f16 where there is none.
func (c *kvChoice) fromModel(key string) kvtype.Side {
	plain := kvtype.Side{Names: []string{kvtype.F16}, Default: true}
	if c.f.KV().Value(key) == nil {
		return plain
	}

	// an array of Ollama's has no values where it is longer than the reader's limit
	names := slices.Clone(c.f.KV().Strings(key, nil))
	if name := c.f.KV().String(key); name != "" {
		names = []string{name}
	} else if err := c.checkLength(len(names)); err != nil {
		slog.Warn("KV cache types of the model: f16 instead", "key", key, "reason", err)
		return plain
	}

	for i, name := range names {
		t, err := kvtype.Lookup(name)
		if err != nil {
			slog.Warn("KV cache type of the model: f16 instead", "key", key, "reason", err)
			t.Name = kvtype.F16
		}
		names[i] = t.Name
	}

	if len(names) > 1 && !slices.ContainsFunc(names, func(name string) bool { return name != names[0] }) {
		names = names[:1]
	}
	return kvtype.Side{Names: names, Default: true}
}

func (c *kvChoice) checkLength(n int) error {
	layers := int(c.f.KV().BlockCount())
	// layers of a draft head stand at the end and may be missing
	draft := int(c.f.KV().Uint("nextn_predict_layers"))
	if n < layers-draft || n > layers || n == 0 {
		return fmt.Errorf("%d entries for %d layers", n, layers)
	}

	return nil
}

// check replaces the model's types that cannot be, and returns an error for the user's.
func (c *kvChoice) check() error {
	kv := c.f.KV()
	sides := []struct {
		name    string
		side    *kvtype.Side
		headDim uint64
	}{
		{"K", &c.spec.K, kv.EmbeddingHeadCountK()},
		{"V", &c.spec.V, kv.EmbeddingHeadCountV()},
	}

	for _, s := range sides {
		err := c.checkSide(*s.side, int(s.headDim))
		if err == nil {
			continue
		}
		if !s.side.Default {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		slog.Warn("KV cache type of the model: f16 instead", "side", s.name, "reason", err)
		*s.side = kvtype.Side{Names: []string{kvtype.F16}, Default: true}
	}

	return nil
}

func (c *kvChoice) checkSide(side kvtype.Side, headDim int) error {
	if side.Turbo() && c.f.KV().Uint("attention.kv_lora_rank") > 0 {
		return errors.New("no turbo types with multi-head latent attention (q8_0 and q4_0 are possible)")
	}
	if c.goEngine {
		// its cache knows the real head dimensions, layer by layer
		return nil
	}

	if len(side.Names) > 1 {
		if !c.uniform(side) {
			return errors.New("types that differ by layer need Ollama's own engine, which does not have this architecture (one type for all layers is possible)")
		}
	}

	t := c.typeOf(side)
	if headDim > 0 && !t.Fits(headDim) {
		return fmt.Errorf("%s has blocks of %d, the head dimension is %d (types that fit: %s)",
			t.Name, t.Values, headDim, strings.Join(kvtype.Fitting(headDim), ", "))
	}

	return nil
}

// layersWithKV returns the layers that have heads of K and V: entries of others are not read.
func (c *kvChoice) layersWithKV() []int {
	var layers []int
	for i, heads := range c.f.KV().HeadCountKV() {
		if heads > 0 {
			layers = append(layers, i)
		}
	}

	return layers
}

func (c *kvChoice) uniform(side kvtype.Side) bool {
	first := c.typeOf(side)
	return !slices.ContainsFunc(c.layersWithKV(), func(layer int) bool { return side.Layer(layer) != first })
}

func (c *kvChoice) typeOf(side kvtype.Side) kvtype.Type {
	if layers := c.layersWithKV(); len(layers) > 0 {
		return side.Layer(layers[0])
	}

	return side.Layer(0)
}
