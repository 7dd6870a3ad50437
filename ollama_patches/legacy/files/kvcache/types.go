package kvcache

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/ollama/ollama/kvcache/kvtype"
	"github.com/ollama/ollama/ml"
)

// Typed is a cache, or several, whose K and V can have types of their own.
type Typed interface {
	// SetTypes is called before Init and goes before its dtype.
	SetTypes(spec kvtype.Spec)

	causals() []*Causal
}

var (
	_ Typed = (*Causal)(nil)
	_ Typed = (*Recurrent)(nil)
	_ Typed = (*WrapperCache)(nil)
)

// TypeError says why a cache cannot have the type that was asked for.
type TypeError struct {
	reason string
}

func (e *TypeError) Error() string {
	return e.reason
}

var dtypes = map[string]ml.DType{
	"f32":      ml.DTypeF32,
	kvtype.F16: ml.DTypeF16,
	"bf16":     ml.DTypeBF16,
	"q8_0":     ml.DTypeQ80,
	"q5_1":     ml.DTypeQ51,
	"q5_0":     ml.DTypeQ50,
	"q4_1":     ml.DTypeQ41,
	"q4_0":     ml.DTypeQ40,
	"iq4_nl":   ml.DTypeIQ4NL,
	"turbo4":   ml.DTypeTurbo4,
	"turbo3":   ml.DTypeTurbo3,
	"turbo2":   ml.DTypeTurbo2,
}

func nameOf(dtype ml.DType) string {
	for name, d := range dtypes {
		if d == dtype {
			return name
		}
	}

	return "another type"
}

func (c *Causal) SetTypes(spec kvtype.Spec) {
	c.types = &spec
}

func (c *Recurrent) SetTypes(spec kvtype.Spec) {
	c.kv.SetTypes(spec)
}

func (c *WrapperCache) SetTypes(spec kvtype.Spec) {
	for _, cache := range c.caches {
		if typed, ok := cache.(Typed); ok {
			typed.SetTypes(spec)
		}
	}
}

func (c *Causal) causals() []*Causal {
	return []*Causal{c}
}

func (c *Recurrent) causals() []*Causal {
	return c.kv.causals()
}

func (c *WrapperCache) causals() []*Causal {
	var all []*Causal
	for _, cache := range c.caches {
		if typed, ok := cache.(Typed); ok {
			all = append(all, typed.causals()...)
		}
	}

	return all
}

// layerTypes returns the types of K and V of the current layer. It panics with a TypeError for a
// type that was asked for and cannot be.
func (c *Causal) layerTypes(keyDim, valueDim int) (ml.DType, ml.DType) {
	if c.types == nil || c.keys[c.curLayer] != nil {
		return c.DType, c.DType
	}

	k := c.fit("K", c.types.K, keyDim, false)
	v := c.fit("V", c.types.V, valueDim, c.config.PermutedV)

	backend, ok := c.backend.(ml.BackendCacheTypes)
	if !ok || k == v && (k == ml.DTypeF16 || k == ml.DTypeQ80 || k == ml.DTypeQ40) {
		return k, v
	}

	// what a default may be given up for, V first: devices have fewer kernels for it
	ks, vs := []ml.DType{k}, []ml.DType{v}
	if c.types.K.Default {
		ks = append(ks, ml.DTypeF16)
	}
	if c.types.V.Default {
		vs = append(vs, ml.DTypeF16)
	}

	reason := fmt.Sprintf("%s has no kernels for K %s with V %s", backend.LayerDevice(c.curLayer), nameOf(k), nameOf(v))
	for _, ck := range ks {
		for _, cv := range vs {
			if ck == ml.DTypeF16 && cv == ml.DTypeF16 || backend.CacheTypesSupported(c.curLayer, ck, cv, keyDim, valueDim) {
				if ck != k {
					c.warn("K", reason)
				}
				if cv != v {
					c.warn("V", reason)
				}
				return ck, cv
			}
		}
	}

	panic(&TypeError{fmt.Sprintf("KV cache type of layer %d: %s (other types by OLLAMA_KV_CACHE_TYPE, or num_gpu 0)", c.curLayer, reason)})
}

func (c *Causal) fit(side string, asked kvtype.Side, headDim int, permuted bool) ml.DType {
	t := asked.Layer(c.curLayer)

	var reason string
	switch {
	case !t.Fits(headDim):
		reason = fmt.Sprintf("%s has blocks of %d, the head dimension of layer %d is %d (types that fit: %s)",
			t.Name, t.Values, c.curLayer, headDim, strings.Join(kvtype.Fitting(headDim), ", "))
	case t.Values > 1 && permuted:
		reason = t.Name + " needs flash attention"
	default:
		return dtypes[t.Name]
	}

	if !asked.Default {
		panic(&TypeError{fmt.Sprintf("KV cache type of %s: %s", side, reason)})
	}

	c.warn(side, reason)
	return ml.DTypeF16
}

func (c *Causal) warn(side, reason string) {
	if !slices.Contains(c.warned, side) {
		c.warned = append(c.warned, side)
		slog.Warn("KV cache type of the model: f16 instead", "side", side, "reason", reason)
	}
}

// shiftable tells whether the devices can turn every K that is not f16 into floats and back.
func (c *Causal) shiftable() bool {
	backend, ok := c.backend.(ml.BackendCacheTypes)
	if !ok {
		return true
	}

	for layer, key := range c.keys {
		if key != nil && key.DType() != ml.DTypeF16 && !backend.CacheShiftSupported(layer, key.DType(), key.Dim(0)) {
			slog.Warn("KV cache cannot be shifted, the context is computed anew", "type", nameOf(key.DType()), "device", backend.LayerDevice(layer))
			return false
		}
	}

	return true
}

// Size is what K and V of one cache take, without padding.
type Size struct {
	K, V           string
	Layers, Cells  int
	KBytes, VBytes int
}

// Sizes returns the size of each cache that has layers, of several as llama.cpp orders them.
func Sizes(cache Cache) []Size {
	typed, ok := cache.(Typed)
	if !ok {
		return nil
	}

	var sizes []Size
	for _, c := range typed.causals() {
		if len(c.keys) == 0 {
			continue
		}

		size := Size{K: summary(c.keys), V: summary(c.values), Layers: len(c.keys), Cells: len(c.cells)}
		for layer := range c.keys {
			size.KBytes += c.keys[layer].Stride(2) * c.keys[layer].Dim(2)
			size.VBytes += c.values[layer].Stride(2) * c.values[layer].Dim(2)
		}
		sizes = append(sizes, size)
	}

	return sizes
}

func summary(tensors map[int]ml.Tensor) string {
	count := make(map[string]int)
	for _, t := range tensors {
		count[nameOf(t.DType())]++
	}

	var parts []string
	for _, name := range kvtype.Names() {
		switch {
		case count[name] == len(tensors):
			return name
		case count[name] > 0:
			parts = append(parts, fmt.Sprintf("%d %s", count[name], name))
		}
	}

	return "mixed: " + strings.Join(parts, " + ")
}

// LogSizes logs the size of each cache; cache may be nil.
func LogSizes(cache Cache) {
	for _, s := range Sizes(cache) {
		slog.Info("kv cache bytes", "k", s.K, "v", s.V, "layers", s.Layers, "cells", s.Cells, "k_bytes", s.KBytes, "v_bytes", s.VBytes)
	}
}
