package ollamarunner

import (
	"errors"
	"fmt"

	"github.com/ollama/ollama/kvcache"
	"github.com/ollama/ollama/kvcache/kvtype"
)

// setKVTypes gives the cache its types, as kvtype.Decode reads them; "" leaves it at f16.
func setKVTypes(cache kvcache.Cache, text string) error {
	if text == "" {
		return nil
	}

	spec, err := kvtype.Decode(text)
	if err != nil {
		return err
	}

	typed, ok := cache.(kvcache.Typed)
	if !ok {
		if spec.Plain() {
			return nil
		}
		return fmt.Errorf("%T is always f16 (OLLAMA_KV_CACHE_TYPE=f16 loads the model)", cache)
	}
	typed.SetTypes(spec)

	return nil
}

// refusedKVType tells whether a panic says that a cache cannot have its type.
func refusedKVType(err error) bool {
	var refused *kvcache.TypeError
	return errors.As(err, &refused)
}

func logKVSizes(c *InputCache) {
	kvcache.LogSizes(c.cache)
}
