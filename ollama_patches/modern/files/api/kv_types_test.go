// SPDX-License-Identifier: MIT

package api

import "testing"

// PARAMETER takes the three names, and options of a request do.
func TestKVCacheTypesAreOptions(t *testing.T) {
	params, err := FormatParams(map[string][]string{
		"kv_cache_type": {"q8_0/turbo3"}, "kv_cache_type_k": {"turbo4"}, "kv_cache_type_v": {"turbo2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	opts := DefaultOptions()
	if err := opts.FromMap(params); err != nil {
		t.Fatal(err)
	}
	if opts.KvCacheType != "q8_0/turbo3" || opts.KvCacheTypeK != "turbo4" || opts.KvCacheTypeV != "turbo2" {
		t.Fatalf("options are %+v", opts.Runner)
	}
	if err := opts.FromMap(map[string]any{"kv_cache_type": 4}); err == nil {
		t.Fatal("a number passed for a type")
	}
}
