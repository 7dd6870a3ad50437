package kvcache

import (
	"errors"
	"strings"
	"testing"

	"github.com/ollama/ollama/kvcache/kvtype"
	"github.com/ollama/ollama/ml"
	"github.com/ollama/ollama/model/input"
)

// typedBackend computes no attention over V of the type that it lacks.
type typedBackend struct {
	testBackend
	lacks ml.DType
}

func (b *typedBackend) CacheTypesSupported(_ int, key, value ml.DType, _, _ int) bool {
	return value != b.lacks
}

func (b *typedBackend) CacheShiftSupported(int, ml.DType, int) bool { return false }

func (b *typedBackend) LayerDevice(int) string { return "GPU7" }

func spec(t *testing.T, text string) kvtype.Spec {
	t.Helper()
	s, err := kvtype.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// put stores one position in a layer and returns what Put panicked with.
func put(t *testing.T, cache Cache, layer, keyDim, valueDim int) (refused error) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			refused = r.(error)
		}
	}()

	ctx := &testContext{}
	batch := input.Batch{Positions: []int32{int32(layer)}, Sequences: []int{0}}
	if err := cache.StartForward(ctx, batch, false); err != nil {
		t.Fatal(err)
	}
	cache.SetLayer(layer)
	cache.Put(ctx, ctx.Empty(ml.DTypeF32, keyDim, 1, 1), ctx.Empty(ml.DTypeF32, valueDim, 1, 1))
	return nil
}

func TestEachLayerHasItsTypes(t *testing.T) {
	cache := NewCausalCache(nil)
	cache.SetTypes(spec(t, "f16,turbo4,turbo3/q8_0"))
	cache.Init(&testBackend{}, ml.DTypeF16, 1, 16, 16)
	for layer := range 3 {
		if err := put(t, cache, layer, 128, 128); err != nil {
			t.Fatal(err)
		}
	}

	for layer, want := range []ml.DType{ml.DTypeF16, ml.DTypeTurbo4, ml.DTypeTurbo3} {
		if k, v := cache.keys[layer].DType(), cache.values[layer].DType(); k != want || v != ml.DTypeQ80 {
			t.Errorf("layer %d: K %s V %s", layer, nameOf(k), nameOf(v))
		}
	}
	if s := Sizes(cache); len(s) != 1 || s[0].K != "mixed: 1 f16 + 1 turbo4 + 1 turbo3" || s[0].V != "q8_0" || s[0].Layers != 3 {
		t.Errorf("%+v", s)
	}
}

func TestWithoutTypesTheDTypeHolds(t *testing.T) {
	cache := NewCausalCache(nil)
	cache.Init(&testBackend{}, ml.DTypeQ40, 1, 16, 16)
	if err := put(t, cache, 0, 128, 128); err != nil || cache.keys[0].DType() != ml.DTypeQ40 {
		t.Errorf("%v", err)
	}
}

func TestHeadDimensionThatBlocksDoNotDivide(t *testing.T) {
	asked := NewCausalCache(nil)
	asked.SetTypes(spec(t, "turbo4"))
	asked.Init(&testBackend{}, ml.DTypeF16, 1, 16, 16)
	err := put(t, asked, 3, 64, 64)
	var refused *TypeError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "blocks of 128, the head dimension of layer 3 is 64 (types that fit: f32, f16") {
		t.Errorf("%v", err)
	}

	def := NewCausalCache(nil)
	def.SetTypes(spec(t, "turbo4?"))
	def.Init(&testBackend{}, ml.DTypeF16, 1, 16, 16)
	if err := put(t, def, 0, 64, 128); err != nil {
		t.Fatal(err)
	}
	if def.keys[0].DType() != ml.DTypeF16 || def.values[0].DType() != ml.DTypeTurbo4 {
		t.Error("K of 64 is f16, V of 128 turbo4")
	}
}

func TestQuantizedVNeedsFlashAttention(t *testing.T) {
	cache := NewCausalCache(nil)
	cache.SetTypes(spec(t, "f16/turbo4"))
	cache.Init(&testBackend{permutedV: true}, ml.DTypeF16, 1, 16, 16)
	if err := put(t, cache, 0, 128, 128); err == nil || !strings.Contains(err.Error(), "V: turbo4 needs flash attention") {
		t.Errorf("%v", err)
	}
}

func TestDeviceWithoutKernels(t *testing.T) {
	backend := &typedBackend{lacks: ml.DTypeTurbo4}

	asked := NewCausalCache(nil)
	asked.SetTypes(spec(t, "q8_0/turbo4"))
	asked.Init(backend, ml.DTypeF16, 1, 16, 16)
	if err := put(t, asked, 0, 128, 128); err == nil || !strings.Contains(err.Error(), "GPU7 has no kernels for K q8_0 with V turbo4") {
		t.Errorf("%v", err)
	}

	def := NewCausalCache(nil)
	def.SetTypes(spec(t, "turbo4?"))
	def.Init(backend, ml.DTypeF16, 1, 16, 16)
	if err := put(t, def, 0, 128, 128); err != nil || def.keys[0].DType() != ml.DTypeTurbo4 || def.values[0].DType() != ml.DTypeF16 {
		t.Errorf("K keeps its type, V is given up: %v", err)
	}
}

func TestCachesOfCachesPassTypesOn(t *testing.T) {
	sliding, full := NewSWACache(4, nil), NewCausalCache(nil)
	recurrent := NewRecurrentCache(RecurrentConfig{})
	wrapper := NewWrapperCache(NewEncoderCache(), sliding, full, recurrent)
	wrapper.SetTypes(spec(t, "turbo3"))
	for _, c := range []*Causal{sliding, full, recurrent.kv} {
		if c.types == nil || c.types.String() != "turbo3" {
			t.Errorf("%v", c.types)
		}
	}
	if n := len(wrapper.causals()); n != 3 {
		t.Errorf("%d caches", n)
	}
}

func TestShiftIsRefusedWhereKCannotBeTurnedBack(t *testing.T) {
	shift := func(_ ml.Context, _ int, key, _ ml.Tensor) (ml.Tensor, error) { return key, nil }
	cache := NewCausalCache(shift)
	cache.SetTypes(spec(t, "turbo4"))
	cache.Init(&typedBackend{}, ml.DTypeF16, 1, 16, 16)
	if err := put(t, cache, 0, 128, 128); err != nil {
		t.Fatal(err)
	}
	if err := cache.shift(0, 0, -1); !errors.Is(err, ErrNotSupported) {
		t.Errorf("%v", err)
	}
}
