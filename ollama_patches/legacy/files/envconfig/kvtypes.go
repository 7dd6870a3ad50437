package envconfig

// withKVTypes describes OLLAMA_KV_CACHE_TYPE as it is with types for K and V.
func withKVTypes(vars map[string]EnvVar) map[string]EnvVar {
	v := vars["OLLAMA_KV_CACHE_TYPE"]
	v.Description = "Types of the K/V cache: TYPE or TYPE_K/TYPE_V (default: as the model says, else f16)"
	vars[v.Name] = v

	return vars
}
