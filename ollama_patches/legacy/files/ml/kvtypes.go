package ml

// Types of K and V caches beside those that tensors of models have.
const (
	DTypeBF16 DType = iota + 60
	DTypeQ51
	DTypeQ50
	DTypeQ41
	DTypeIQ4NL
	DTypeTurbo4
	DTypeTurbo3
	DTypeTurbo2
)

// BackendCacheTypes is implemented by backends that know which cache types the device of a layer
// computes. Without it every type is taken to be computable.
type BackendCacheTypes interface {
	// CacheTypesSupported tells whether the device stores K and V of these types and computes
	// flash attention over them.
	CacheTypesSupported(layer int, key, value DType, keyDim, valueDim int) bool

	// CacheShiftSupported tells whether the device turns K into floats and back.
	CacheShiftSupported(layer int, key DType, keyDim int) bool

	// LayerDevice returns the name of the device that a layer is on.
	LayerDevice(layer int) string
}
