package kvtype

import (
	"strings"
	"testing"
)

func TestBytesOfABlock(t *testing.T) {
	for name, want := range map[string]int{"turbo2": 34, "turbo3": 50, "turbo4": 66} {
		got, err := Lookup(name)
		if err != nil || got.Values != 128 || got.Bytes != want {
			t.Errorf("%s: %v %v, want 128 values in %d bytes", name, got, err, want)
		}
	}
}

func TestParse(t *testing.T) {
	cases := map[string]string{
		"turbo4":       "turbo4",
		"Q8_0/Turbo4":  "q8_0/turbo4",
		"q8_0:turbo3":  "q8_0/turbo3",
		" f16 / q8_0 ": "f16/q8_0",
		"f16":          "f16",
	}
	for text, want := range cases {
		spec, err := Parse(text)
		if err != nil || spec.String() != want {
			t.Errorf("%q: %q %v, want %q", text, spec, err, want)
		}
	}
}

func TestUnknownNamesAreNamed(t *testing.T) {
	for text, unknown := range map[string]string{
		"turbo5":            `"turbo5"`,
		"q8_0/tq3":          `"tq3"`,
		"/turbo4":           `""`,
		"q8_0/turbo4/f16":   `"turbo4/f16"`,
		"turbo4?":           `"turbo4?"`,
		"turbo4,f16/turbo4": `"turbo4,f16"`,
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), unknown) {
			t.Errorf("%q: %v, want an error that names %s", text, err, unknown)
		}
	}
	if _, err := Decode("turbo9?"); err == nil || !strings.Contains(err.Error(), "turbo9") {
		t.Errorf("Decode: %v", err)
	}
}

func TestDecodeReadsWhatStringWrites(t *testing.T) {
	for _, spec := range []Spec{
		{K: Side{Names: []string{"turbo4"}}, V: Side{Names: []string{"turbo4"}}},
		{K: Side{Names: []string{"turbo4"}, Default: true}, V: Side{Names: []string{"turbo4"}}},
		{K: Side{Names: []string{"f16", "turbo4"}, Default: true}, V: Side{Names: []string{"q8_0"}, Default: true}},
	} {
		got, err := Decode(spec.String())
		if err != nil || got.String() != spec.String() || got.K.Default != spec.K.Default || got.V.Default != spec.V.Default {
			t.Errorf("%s: %v %v", spec, got, err)
		}
	}
}

func TestLayers(t *testing.T) {
	side := Side{Names: []string{"f16", "turbo4"}}
	if side.Layer(1).Name != "turbo4" || side.Layer(0).Name != F16 || side.Layer(7).Name != F16 {
		t.Error("each layer has its entry, layers without one are f16")
	}
	if side.Plain() || !side.Turbo() {
		t.Error("one turbo layer makes the side not plain")
	}
}

func TestPerElement(t *testing.T) {
	cases := []struct {
		text string
		want float64
	}{
		{"turbo4", 66. / 128},
		{"q8_0/turbo3", (34./32 + 50./128) / 2},
		{"f16,turbo2/f16", 2},
	}
	for _, c := range cases {
		if got, ok := PerElement(c.text, 128, 128); !ok || got != c.want {
			t.Errorf("%s: %v %v, want %v", c.text, got, ok, c.want)
		}
	}
	// K and V of different dimensions weigh by them
	if got, _ := PerElement("turbo4/f16", 384, 128); got != (66./128*384+2*128)/512 {
		t.Errorf("weighed: %v", got)
	}
	if _, ok := PerElement("", 128, 128); ok {
		t.Error("no text is no specification")
	}
}
