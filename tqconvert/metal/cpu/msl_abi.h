// What generated kernels, the runtime and the checker share: the kernel table and the kinds of findings.
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(__APPLE__)
#define MSL_TG_SECTION "__DATA,msl_tgvar"
#else
#define MSL_TG_SECTION "msl_tgvar"
#endif
#define MSL_EXPORT extern "C" __attribute__((visibility("default")))
#define MSL_RAW __attribute__((no_sanitize("thread"), no_sanitize("undefined")))

// X(name): the names are what the tool prints.
#define MSL_KINDS(X)                 \
  X(device_out_of_bounds)            \
  X(threadgroup_out_of_bounds)       \
  X(private_out_of_bounds)           \
  X(misaligned_access)               \
  X(threadgroup_race)                \
  X(simdgroup_race)                  \
  X(simdgroup_unordered)             \
  X(device_race)                     \
  X(uninitialised_threadgroup_read)  \
  X(threadgroup_memory_limit)        \
  X(divergent_barrier)               \
  X(barrier_with_exited_threads)     \
  X(divergent_simd_function)         \
  X(simd_function_with_exited_lanes) \
  X(shuffle_from_inactive_lane)      \
  X(division_by_zero)                \
  X(shift_out_of_range)              \
  X(memory_fault)                    \
  X(illegal_instruction)

namespace msl {
#define X(name) name,
enum FindingKind : uint32_t { MSL_KINDS(X) KINDS };
#undef X

enum ParamKind : uint8_t { BUFFER, TGMEM, TPIG, TGPIG, TPITG, TPTG, TGPG, TPG, TIITG, TIISG, SGITG, SGPTG, TPSG };
struct Param {
  uint8_t kind, index, read_only;
};
// The running thread and what orders its accesses. `group` goes up at barriers of the threadgroup, `simd` at those and
// at barriers of the thread's simdgroup: for threadgroup and device memory where the barrier's flags name it, for
// execution always. `level` goes up at functions of the simdgroup too, which order nothing.
struct Epochs {
  uint32_t group, simd, level;
};
struct Who {
  uint32_t thread, simdgroup; // from 1
  uint32_t serial;            // of the threadgroup, over all launches
  Epochs threadgroup, device, execution;
  char *stack_low, *stack_high;
};
// A part of threadgroup memory: an argument or a variable.
struct Area {
  char *low, *high;
};
// Everything that a thread's kernel parameters can ask for.
struct Context {
  void *buffers[32];
  void *tg_memory[8];
  uint32_t thread_in_grid[3], group_in_grid[3], thread_in_group[3];
  uint32_t threads_per_group[3], groups_per_grid[3], threads_per_grid[3];
  uint32_t index_in_group, lane, simdgroup, simdgroups;
};
struct KernelRecord {
  const char *name;
  void (*call)(const Param *, Context &);
  const Param *params;
  int n_params;
};
struct ConstantRecord {
  const char *name;
  int index;
  void *address;
  int size;
};
} // namespace msl

typedef void (*msl_collective_fn)(void *simdgroup, uint32_t mask);
extern "C" {
// The thread joins the others of its simdgroup; the last to arrive runs `fn` for all of them.
void msl_collective(msl_collective_fn fn, const void *in, void *out, uint32_t aux, const char *file, uint32_t line)
    __attribute__((convergent, noduplicate));
void msl_threadgroup_barrier(uint32_t flags, const char *file, uint32_t line)
    __attribute__((convergent, noduplicate));
// A threadgroup variable, where a thread comes to its declaration.
void msl_tg_variable(void *at, size_t size, const char *file, uint32_t line);
const void *msl_in(void *simdgroup, uint32_t lane);
void *msl_out(void *simdgroup, uint32_t lane);
uint32_t msl_aux(void *simdgroup, uint32_t lane);
uint32_t msl_lane(void);
// A finding at a known line (file != 0), else at the caller of `pc`; a and b say more, by kind.
void msl_finding(uint32_t kind, const char *file, uint32_t line, void *pc, uint64_t a, uint64_t b);
// An atomic access: 0 load, 1 store, 2 both.
void msl_atomic(void *address, size_t size, int store, void *pc);
// Lets the lanes of the simdgroup come level before a memory operation, where that is asked for.
void msl_level(int is_store);
// The running thread, or 0 outside of kernels and while a function of the simdgroup runs for all lanes.
const msl::Who *msl_who(void);
// What the runtime calls, with empty definitions of its own where no checker is linked (Mach-O has no undefined weak
// symbols without more ado): whether one is; before a launch, with the number of threadgroups before it; and for each
// threadgroup with the areas of its memory, again when a variable is added.
int msl_chk_linked(void);
void msl_chk_begin(void **buffers, size_t *sizes, const uint8_t *read_only, int n, uint32_t serial, msl::Area tg,
                   msl::Area vars, msl::Area stacks);
void msl_chk_areas(const msl::Area *areas, int n, int n_new);
}
