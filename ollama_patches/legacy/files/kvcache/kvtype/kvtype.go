// Package kvtype names the types that the K and the V cache of a model can have.
package kvtype

import (
	"fmt"
	"slices"
	"strings"
)

// Type is a cache type: a block of Values values takes Bytes bytes.
type Type struct {
	Name          string
	Values, Bytes int
}

// F16 is the type of a cache for which nobody asked for another.
const F16 = "f16"

var types = []Type{
	{"f32", 1, 4},
	{F16, 1, 2},
	{"bf16", 1, 2},
	{"q8_0", 32, 34},
	{"q5_1", 32, 24},
	{"q5_0", 32, 22},
	{"q4_1", 32, 20},
	{"q4_0", 32, 18},
	{"iq4_nl", 32, 18},
	{"turbo4", 128, 66},
	{"turbo3", 128, 50},
	{"turbo2", 128, 34},
}

// Lookup returns the type of that name; case does not matter.
func Lookup(name string) (Type, error) {
	lower := strings.ToLower(strings.TrimSpace(name))
	for _, t := range types {
		if t.Name == lower {
			return t, nil
		}
	}

	return Type{}, fmt.Errorf("%q is no KV cache type (one of %s)", name, strings.Join(Names(), ", "))
}

// Names returns the names of all types.
func Names() []string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.Name
	}

	return names
}

// Fitting returns the names of the types whose blocks divide a head of headDim values.
func Fitting(headDim int) []string {
	var names []string
	for _, t := range types {
		if t.Fits(headDim) {
			names = append(names, t.Name)
		}
	}

	return names
}

// Fits tells whether blocks of the type divide a head of headDim values.
func (t Type) Fits(headDim int) bool {
	return headDim%t.Values == 0
}

// Turbo tells whether the type is one of turbo2, turbo3 and turbo4.
func (t Type) Turbo() bool {
	return strings.HasPrefix(t.Name, "turbo")
}

// PerElement returns the bytes of one value.
func (t Type) PerElement() float64 {
	return float64(t.Bytes) / float64(t.Values)
}

// Side has the types of K or of V.
type Side struct {
	// Names has one name for all layers, or one for each layer of the model.
	Names []string

	// Default is set where the model asks, not the user: a layer that cannot
	// have its type is f16 then, instead of an error.
	Default bool
}

// Layer returns the type of a layer; layers without an entry are f16.
func (s Side) Layer(layer int) Type {
	name := F16
	switch {
	case len(s.Names) == 1:
		name = s.Names[0]
	case layer >= 0 && layer < len(s.Names):
		name = s.Names[layer]
	}

	t, err := Lookup(name)
	if err != nil {
		panic(err)
	}

	return t
}

// Plain tells whether every layer is f16.
func (s Side) Plain() bool {
	return !slices.ContainsFunc(s.Names, func(name string) bool { return name != F16 })
}

// Turbo tells whether a layer has a turbo type.
func (s Side) Turbo() bool {
	return slices.ContainsFunc(s.Names, func(name string) bool { return strings.HasPrefix(name, "turbo") })
}

// Types returns the names, one or one for each layer.
func (s Side) Types() string {
	return strings.Join(s.Names, ",")
}

func (s Side) String() string {
	out := s.Types()
	if s.Default {
		out += "?"
	}

	return out
}

// Spec has the types of both sides.
type Spec struct {
	K, V Side
}

// Plain tells whether both sides are f16 in every layer.
func (s Spec) Plain() bool {
	return s.K.Plain() && s.V.Plain()
}

// String returns what Decode reads: for example turbo4, q8_0/turbo4, or f16,turbo4?/turbo4?.
func (s Spec) String() string {
	k, v := s.K.String(), s.V.String()
	if k == v {
		return k
	}

	return k + "/" + v
}

// Decode reads what Spec.String returns.
func Decode(text string) (Spec, error) {
	first, second, ok := strings.Cut(text, "/")
	if !ok {
		second = first
	}

	k, err := decodeSide(first)
	if err != nil {
		return Spec{}, err
	}

	v, err := decodeSide(second)
	if err != nil {
		return Spec{}, err
	}

	return Spec{k, v}, nil
}

func decodeSide(text string) (Side, error) {
	list, isDefault := strings.CutSuffix(text, "?")
	names := strings.Split(list, ",")
	for i, name := range names {
		t, err := Lookup(name)
		if err != nil {
			return Side{}, err
		}
		names[i] = t.Name
	}

	return Side{names, isDefault}, nil
}

// Parse reads what a user asks for: one type, or K/V; a colon is taken for the slash.
func Parse(text string) (Spec, error) {
	first, second := text, text
	if i := strings.IndexAny(text, "/:"); i >= 0 {
		first, second = text[:i], text[i+1:]
	}

	k, err := Lookup(first)
	if err != nil {
		return Spec{}, err
	}

	v, err := Lookup(second)
	if err != nil {
		return Spec{}, err
	}

	return Spec{K: Side{Names: []string{k.Name}}, V: Side{Names: []string{v.Name}}}, nil
}

// PerElement returns the bytes of a value in a cache whose heads have headK and headV values,
// the mean over both sides; where layers differ, of the largest type. ok is false for text
// that is no specification.
func PerElement(text string, headK, headV uint64) (bytes float64, ok bool) {
	spec, err := Decode(text)
	if err != nil || headK+headV == 0 {
		return 0, false
	}

	total := spec.K.largest()*float64(headK) + spec.V.largest()*float64(headV)
	return total / float64(headK+headV), true
}

func (s Side) largest() float64 {
	var most float64
	for i := range s.Names {
		most = max(most, s.Layer(i).PerElement())
	}

	return most
}
