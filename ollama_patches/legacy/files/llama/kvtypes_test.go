package llama

import (
	"strings"
	"testing"

	"github.com/ollama/ollama/ml"
)

func TestContextParamsHaveTypesForKAndV(t *testing.T) {
	// the numbers of ggml.h
	for text, want := range map[string][2]uint32{
		"":              {1, 1},
		"f16":           {1, 1},
		"q8_0":          {8, 8},
		"q8_0/turbo4":   {8, 62},
		"turbo3?":       {61, 61},
		"Turbo2/iq4_nl": {60, 20},
	} {
		p := NewContextParams(128, 32, 1, 1, ml.FlashAttentionEnabled, text)
		if p.c.type_k != want[0] || p.c.type_v != want[1] {
			t.Errorf("%q: K %d V %d, want %v", text, p.c.type_k, p.c.type_v, want)
		}
	}
}

func TestFitKVCacheType(t *testing.T) {
	if got, err := FitKVCacheType("q8_0/turbo4?", false); err != nil || got != "q8_0/turbo4?" {
		t.Errorf("without a GPU: %q %v", got, err)
	}
	if _, err := FitKVCacheType("turbo7", true); err == nil || !strings.Contains(err.Error(), "turbo7") {
		t.Errorf("unknown: %v", err)
	}
}
