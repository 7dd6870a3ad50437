package ggml

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/ollama/ollama/fs/ggml"
	"github.com/ollama/ollama/kvcache"
	"github.com/ollama/ollama/kvcache/kvtype"
	"github.com/ollama/ollama/ml"
	"github.com/ollama/ollama/ml/nn"
	"github.com/ollama/ollama/ml/nn/rope"
	"github.com/ollama/ollama/model/input"
)

// attending is a backend on the CPU with flash attention and one layer.
func attending(t *testing.T) ml.Backend {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "*.gguf")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := ggml.WriteGGUF(f, ggml.KV{"general.architecture": "test", "test.block_count": uint32(1)}, nil); err != nil {
		t.Fatal(err)
	}

	b, err := ml.NewBackend(f.Name(), ml.BackendParams{AllocMemory: true, FlashAttention: ml.FlashAttentionEnabled})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func normal(n int) []float32 {
	rng := rand.New(rand.NewPCG(1, 2))
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(rng.NormFloat64())
	}
	return out
}

// nmse is the squared error against the squares of want.
func nmse(got, want []float32) float64 {
	var e, s float64
	for i := range want {
		d := float64(got[i] - want[i])
		e += d * d
		s += float64(want[i]) * float64(want[i])
	}
	return e / s
}

func TestCacheTypesKeepRows(t *testing.T) {
	b := attending(t)
	for name, limit := range map[string]float64{
		"turbo4": .0098, "turbo3": .0355, "turbo2": .121, "iq4_nl": .01, "q5_1": .01, "q5_0": .01, "q4_1": .02, "bf16": 1e-4,
	} {
		ctx := b.NewContext()
		cache := kvcache.NewCausalCache(nil)
		side := kvtype.Side{Names: []string{name}}
		cache.SetTypes(kvtype.Spec{K: side, V: side})
		cache.Init(b, ml.DTypeF16, 1, 256, 256)

		rows := normal(256 * 2 * 64)
		k, v := store(t, ctx, cache, rows, 256, 2, 64)
		for side, got := range map[string][]float32{"K": k, "V": v} {
			if e := nmse(got, rows); e > limit || e == 0 {
				t.Errorf("%s as %s: error %g, at most %g", side, name, e, limit)
			}
		}
		cache.Close()
		ctx.Close()
	}
}

// store puts the rows as K and V of positions from 0 on and returns what the cache then holds.
func store(t *testing.T, ctx ml.Context, cache *kvcache.Causal, rows []float32, dim, heads, n int) (k, v []float32) {
	t.Helper()
	batch := input.Batch{}
	for i := range n {
		batch.Positions = append(batch.Positions, int32(i))
		batch.Sequences = append(batch.Sequences, 0)
	}
	if err := cache.StartForward(ctx, batch, false); err != nil {
		t.Fatal(err)
	}
	cache.SetLayer(0)
	in := ctx.Input().FromFloats(rows, dim, heads, n)
	cache.Put(ctx, in, in)
	return held(ctx, cache, dim, heads, n)
}

func held(ctx ml.Context, cache *kvcache.Causal, dim, heads, n int) (k, v []float32) {
	key, value, _ := cache.Get(ctx)
	kf := key.Copy(ctx, ctx.Input().Empty(ml.DTypeF32, key.Shape()...))
	vf := value.Copy(ctx, ctx.Input().Empty(ml.DTypeF32, value.Shape()...))
	ctx.Forward(kf, vf).Compute(kf, vf)
	return kf.Floats()[:dim*heads*n], vf.Floats()[:dim*heads*n]
}

func TestShiftOfTurboKeys(t *testing.T) {
	const dim, heads, n, dropped = 128, 2, 64, 16
	turn := func(ctx ml.Context, _ int, key, shift ml.Tensor) (ml.Tensor, error) {
		return nn.RoPE(ctx, key, shift, dim, 10000, 1, rope.WithTypeNeoX()), nil
	}

	b := attending(t)
	rows := normal(dim * heads * n)
	shifted := func(name string) []float32 {
		ctx := b.NewContext()
		defer ctx.Close()
		cache := kvcache.NewCausalCache(turn)
		defer cache.Close()
		cache.SetTypes(kvtype.Spec{K: kvtype.Side{Names: []string{name}}, V: kvtype.Side{Names: []string{name}}})
		cache.Init(b, ml.DTypeF16, 1, 256, 256)
		store(t, ctx, cache, rows, dim, heads, n)
		if err := cache.Remove(0, 0, dropped); err != nil {
			t.Fatal(err)
		}

		after := b.NewContext()
		defer after.Close()
		k, _ := held(after, cache, dim, heads, n)
		return append([]float32{}, k[dim*heads*dropped:]...)
	}

	want := shifted("f32")
	// quantized twice: at most twice the error of once
	for name, limit := range map[string]float64{"f16": 1e-6, "turbo4": 2 * .0098, "turbo3": 2 * .0355, "turbo2": 2 * .121} {
		if e := nmse(shifted(name), want); e > limit {
			t.Errorf("%s: error %g, at most %g", name, e, limit)
		}
	}
	if e := nmse(rows[dim*heads*dropped:], want); e < .1 {
		t.Errorf("the shift turned nothing: %g", e)
	}
}

func TestTheCPUComputesEveryPair(t *testing.T) {
	b := attending(t).(ml.BackendCacheTypes)
	for k := range cacheDTypes {
		for v := range cacheDTypes {
			if !b.CacheTypesSupported(0, k, v, 256, 128) || !b.CacheShiftSupported(0, k, 256) {
				t.Errorf("K %v V %v", k, v)
			}
		}
	}
}

func TestAttentionOverPairs(t *testing.T) {
	const dim, heads, n = 128, 2, 64
	b := attending(t)
	rows := normal(dim * heads * n)
	query := normal(dim * heads * 6)

	attend := func(k, v string) []float32 {
		ctx := b.NewContext()
		defer ctx.Close()
		cache := kvcache.NewCausalCache(nil)
		defer cache.Close()
		cache.SetTypes(kvtype.Spec{K: kvtype.Side{Names: []string{k}}, V: kvtype.Side{Names: []string{v}}})
		cache.Init(b, ml.DTypeF16, 1, 256, 256)
		store(t, ctx, cache, rows, dim, heads, n)

		step := b.NewContext()
		defer step.Close()
		if err := cache.StartForward(step, input.Batch{Positions: []int32{n}, Sequences: []int{0}}, false); err != nil {
			t.Fatal(err)
		}
		key, value, mask := cache.Get(step)
		q := step.Input().FromFloats(query, dim, heads*6, 1)
		out := q.(ml.ScaledDotProductAttention).ScaledDotProductAttention(step, key, value, mask, nil, nil, 1/math.Sqrt(dim), true)
		step.Forward(out).Compute(out)
		return append([]float32{}, out.Floats()...)
	}

	want := attend("f16", "f16")
	for _, pair := range [][2]string{{"turbo4", "turbo4"}, {"turbo3", "turbo3"}, {"q8_0", "turbo4"}, {"turbo4", "f16"}, {"q4_0", "turbo2"}, {"bf16", "q5_0"}} {
		t.Run(fmt.Sprint(pair), func(t *testing.T) {
			if e := nmse(attend(pair[0], pair[1]), want); e > .25 || e == 0 {
				t.Errorf("error %g", e)
			}
		})
	}
}
