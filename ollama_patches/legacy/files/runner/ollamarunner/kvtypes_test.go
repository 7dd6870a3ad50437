package ollamarunner

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/ollama/ollama/kvcache"
	"github.com/ollama/ollama/ml"
	_ "github.com/ollama/ollama/ml/backend"
	"github.com/ollama/ollama/model"
	"github.com/ollama/ollama/model/input"
	_ "github.com/ollama/ollama/model/models"
)

const (
	tqCtx    = 1024
	tqBatch  = 128
	tqPrompt = 256
	tqSteps  = 32
	tqVocab  = 256
)

// loaded allocates the model as the runner does, and reads its weights.
func loaded(t *testing.T, path, types string) (*Server, error) {
	t.Helper()
	s := &Server{modelPath: path, batchSize: tqBatch}
	params := ml.BackendParams{AllocMemory: true, NumThreads: 1, FlashAttention: ml.FlashAttentionEnabled}
	if err := s.allocModel(path, params, nil, 1, types, tqCtx, false); err != nil {
		return nil, err
	}
	t.Cleanup(s.closeModel)
	return s, s.model.Backend().Load(context.Background(), func(float32) {})
}

// logits runs a prompt in batches and then single tokens, always the same ones.
func logits(t *testing.T, s *Server) [][]float32 {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, 5))
	var out [][]float32
	for pos := 0; pos < tqPrompt+tqSteps; {
		n := 1
		if pos < tqPrompt {
			n = tqBatch
		}

		ctx := s.model.Backend().NewContext()
		batch := input.Batch{}
		tokens, outputs := make([]int32, n), make([]int32, n)
		for i := range n {
			tokens[i], outputs[i] = rng.Int32N(tqVocab), int32(i)
			batch.Positions = append(batch.Positions, int32(pos+i))
			batch.Sequences = append(batch.Sequences, 0)
		}
		batch.Inputs = ctx.Input().FromInts(tokens, n)
		batch.Outputs = ctx.Input().FromInts(outputs, n)

		result, err := model.Forward(ctx, s.model, batch)
		if err != nil {
			t.Fatal(err)
		}
		ctx.Compute(result)
		width := result.Dim(0)
		all := result.Floats()
		for i := range n {
			out = append(out, append([]float32{}, all[i*width:(i+1)*width]...))
		}
		ctx.Close()
		pos += n
	}
	return out
}

func logSoftmax(x []float32) []float64 {
	most := math.Inf(-1)
	for _, v := range x {
		most = max(most, float64(v))
	}
	var sum float64
	for _, v := range x {
		sum += math.Exp(float64(v) - most)
	}
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v) - most - math.Log(sum)
	}
	return out
}

// divergence is the mean and the largest KL divergence of a position, and the NMSE of all logits.
func divergence(got, want [][]float32) (mean, most, nmse float64) {
	var e, s float64
	for i := range want {
		p, q := logSoftmax(want[i]), logSoftmax(got[i])
		var kl float64
		for j := range p {
			kl += math.Exp(p[j]) * (p[j] - q[j])
			d := float64(got[i][j] - want[i][j])
			e += d * d
			s += float64(want[i][j]) * float64(want[i][j])
		}
		mean += kl / float64(len(want))
		most = max(most, kl)
	}
	return mean, most, e / s
}

// TestModelUnderCacheTypes compares the logits of a model with those at f16. TQ_GGUF is the model;
// TQ_KL bounds the mean divergence at turbo4 (it is the model's own, so a test cannot know it).
func TestModelUnderCacheTypes(t *testing.T) {
	path := os.Getenv("TQ_GGUF")
	if path == "" {
		t.Skip("TQ_GGUF names no model")
	}

	f16, err := loaded(t, path, "")
	if err != nil {
		t.Fatal(err)
	}
	want := logits(t, f16)
	for _, size := range kvcache.Sizes(f16.cache.cache) {
		t.Logf("%-12s %+v", "f16", size)
	}

	means := make(map[string]float64)
	for _, types := range []string{"f16", "q8_0", "turbo4", "turbo3", "turbo2", "q8_0/turbo4"} {
		s, err := loaded(t, path, types)
		if err != nil {
			t.Fatal(err)
		}
		mean, most, nmse := divergence(logits(t, s), want)
		means[types] = mean
		for _, size := range kvcache.Sizes(s.cache.cache) {
			t.Logf("%-12s %+v", types, size)
		}
		t.Logf("%-12s KL mean %.6f max %.6f, NMSE %.2e", types, mean, most, nmse)
	}

	if means["f16"] != 0 {
		t.Errorf("f16 asked for by name is not f16: %g", means["f16"])
	}
	if !(means["q8_0/turbo4"] < means["turbo4"] && means["turbo4"] < means["turbo3"] && means["turbo3"] < means["turbo2"]) {
		t.Errorf("fewer bits must cost more: %v", means)
	}
	var bound float64
	if n, _ := fmt.Sscan(os.Getenv("TQ_KL"), &bound); n == 1 && means["turbo4"] > bound {
		t.Errorf("turbo4: KL %g, at most %g", means["turbo4"], bound)
	}
}

// TestLayersOfAModel gives one layer of full attention another type than the others.
func TestLayersOfAModel(t *testing.T) {
	path := os.Getenv("TQ_GGUF")
	if path == "" {
		t.Skip("TQ_GGUF names no model")
	}

	s, err := loaded(t, path, "f16,f16,f16,turbo4?/f16,turbo3,f16,q8_0?")
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range kvcache.Sizes(s.cache.cache) {
		t.Logf("%+v", size)
		if !strings.HasPrefix(size.K, "mixed:") && size.Layers > 1 {
			t.Errorf("K is %s in all layers", size.K)
		}
	}
}

func TestRefusedTypes(t *testing.T) {
	if err := setKVTypes(kvcache.NewCausalCache(nil), "turbo8"); err == nil || !strings.Contains(err.Error(), "turbo8") {
		t.Errorf("unknown: %v", err)
	}
	if err := setKVTypes(nil, ""); err != nil {
		t.Errorf("nothing asked for: %v", err)
	}
	if err := setKVTypes(kvcache.NewEncoderCache(), "turbo4"); err == nil || !strings.Contains(err.Error(), "always f16") {
		t.Errorf("a cache without types: %v", err)
	}
	if !refusedKVType(fmt.Errorf("load: %w", &kvcache.TypeError{})) || refusedKVType(errors.New("other")) {
		t.Error("only a TypeError is a refusal")
	}
}
