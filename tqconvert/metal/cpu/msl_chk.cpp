// Checks every memory access of a kernel that was compiled with -fsanitize=thread and some of undefined,array-bounds.
//
// It answers the calls that those options insert; no sanitizer library is linked, so the result loads anywhere. An
// access must lie in a buffer of the launch, in the module's constants, in a thread's stack or in threadgroup memory.
// For the latter each two bytes remember who wrote and read them last and in which epoch: an epoch of a simdgroup
// ends where all its lanes come level, its fence where a barrier orders memory, an epoch of the threadgroup at a barrier
// of all that does. A shuffle or a product of matrices brings lanes level and orders no memory.
#include "msl_abi.h"
#include <stdlib.h>
#include <string.h>
using namespace msl;

extern "C" {
#if defined(__APPLE__)
#include <mach-o/getsect.h>
extern char msl_image[] __asm("__mh_dylib_header");
#define msl_image_end (msl_image + (1 << 26))
#else
extern char __ehdr_start[] __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));
#define msl_image __ehdr_start
#define msl_image_end _end
#endif
}

namespace {
struct Range {
  char *low, *high;
  bool holds(const char *a, size_t n) const { return a >= low && a + n <= high; }
};
struct Access { // by whom (counted from 1, 0 is nobody) and when
  uint32_t thread, simd_epoch, fence;
};
struct Cell {
  Access writer, reader, other; // `other`: the last reader but `reader`
  uint32_t write_epoch, read_epoch;
  uint32_t readers; // a bit for each simdgroup that read in read_epoch
};
// Who touched a byte of a buffer: threadgroups by number, from 1, ANY for several. They run in no order, so one
// must not touch what another writes. Numbers wrap; what that hides is one pair in 65534.
struct Touched {
  uint16_t writer, reader;
};
constexpr uint16_t ANY = 0xffff;
Touched *touched[32];
size_t touched_room[32];
uint16_t group_number;
Range buffers[32], tg, stacks, vars, image;
int n_buffers;
Cell *cells;
uint8_t *written;

void device_access(int buffer, char *a, size_t n, bool store, void *pc) {
  Touched *t = touched[buffer] + (a - buffers[buffer].low);
  bool race = false;
  for (size_t i = 0; i < n; i++) {
    race |= t[i].writer && t[i].writer != group_number;
    if (store) {
      race |= t[i].reader && t[i].reader != group_number;
      t[i].writer = group_number;
    } else {
      t[i].reader = t[i].reader && t[i].reader != group_number ? ANY : group_number;
    }
  }
  if (race) msl_finding(device_race, nullptr, 0, pc, a - buffers[buffer].low, n);
}

// Another lane of the simdgroup was here before, in this epoch of the threadgroup.
inline __attribute__((always_inline)) void meet(const Access &then, const Access &now, size_t offset, void *pc) {
  if (then.simd_epoch == now.simd_epoch)
    msl_finding(simdgroup_race, nullptr, 0, pc, offset, then.thread - 1);
  else if (then.fence == now.fence)
    msl_finding(simdgroup_unordered, nullptr, 0, pc, offset, then.thread - 1);
}

void shadow(size_t offset, size_t n, bool store, char *a, void *pc) {
  msl_level(store);
  uint32_t lane, group, epoch;
  Access now;
  if (!msl_running(&lane, &group, &now.simd_epoch, &now.fence, &epoch)) return;
  now.thread = group * 32 + lane + 1;
  for (size_t i = offset / 2; i <= (offset + n - 1) / 2; i++) {
    Cell &c = cells[i];
    if (c.read_epoch != epoch) c.readers = 0, c.reader = c.other = Access{}, c.read_epoch = epoch;
    if (c.writer.thread && c.writer.thread != now.thread && c.write_epoch == epoch) {
      if ((c.writer.thread - 1) / 32 != group)
        msl_finding(threadgroup_race, nullptr, 0, pc, offset, c.writer.thread - 1);
      else
        meet(c.writer, now, offset, pc);
    }
    if (!store) {
      if (c.reader.thread != now.thread) c.other = c.reader;
      c.reader = now;
      c.readers |= 1u << group;
      continue;
    }
    const Access &reader = c.reader.thread == now.thread ? c.other : c.reader;
    if (c.readers & ~(1u << group))
      msl_finding(threadgroup_race, nullptr, 0, pc, offset, reader.thread - 1);
    else if (reader.thread)
      meet(reader, now, offset, pc);
    c.writer = now;
    c.write_epoch = epoch;
  }
  if (store) {
    memset(written + offset, 1, n);
  } else if (memchr(written + offset, 0, n)) {
    msl_finding(uninitialised_threadgroup_read, nullptr, 0, pc, offset, 0);
  }
  (void)a;
}

void check(char *a, size_t n, bool store, void *pc) {
  if (!n || stacks.holds(a, n)) return;
  if (a >= tg.low && a < tg.high) {
    size_t inside = a + n > tg.high ? tg.high - a : n;
    if (inside < n) msl_finding(threadgroup_out_of_bounds, nullptr, 0, pc, a - tg.low, n);
    shadow(a - tg.low, inside, store, a, pc);
  } else if (vars.holds(a, n)) {
    shadow(tg.high - tg.low + (a - vars.low), n, store, a, pc);
  } else {
    for (int i = 0; i < n_buffers; i++)
      if (buffers[i].holds(a, n)) return device_access(i, a, n, store, pc);
    if (image.holds(a, n)) return;
    bool behind = a >= tg.high && a < tg.high + 16384, before = a < tg.low && a >= tg.low - 16384;
    msl_finding(behind || before ? threadgroup_out_of_bounds : device_out_of_bounds, nullptr, 0, pc,
                behind || before ? a - tg.low : (uint64_t)a, n);
  }
}

void aligned(char *a, size_t n, void *pc) {
  if ((uintptr_t)a % (n > 8 ? 8 : n)) msl_finding(misaligned_access, nullptr, 0, pc, (uint64_t)a, n);
}

struct Place {
  const char *file;
  uint32_t line, column;
};
} // namespace

extern "C" {
void msl_chk_begin(void **b, size_t *sizes, int n, char *tg_at, size_t tg_size, char *st, size_t st_size, char *va,
                   size_t va_size) {
  static size_t room;
  n_buffers = 0;
  for (int i = 0; i < n && i < 32; i++)
    if (b[i]) {
      int k = n_buffers++;
      buffers[k] = {(char *)b[i], (char *)b[i] + sizes[i]};
      if (sizes[i] > touched_room[k]) {
        free(touched[k]);
        touched[k] = (Touched *)malloc(sizes[i] * sizeof(Touched));
        touched_room[k] = sizes[i];
      }
      memset((void *)touched[k], 0, sizes[i] * sizeof(Touched));
    }
  group_number = 0;
  tg = {tg_at, tg_at + tg_size};
  stacks = {st, st + st_size};
  vars = {va, va + va_size};
  image = {msl_image, msl_image_end};
  size_t need = tg_size + va_size + 16;
  if (need > room) {
    free(cells);
    free(written);
    cells = (Cell *)calloc(need / 2 + 1, sizeof(Cell));
    written = (uint8_t *)calloc(need, 1);
    room = need;
  }
}
void msl_chk_group() {
  group_number = group_number % (ANY - 1) + 1;
  size_t n = tg.high - tg.low + (vars.high - vars.low);
  memset((void *)cells, 0, sizeof(Cell) * (n / 2 + 1));
  memset(written, 0, n);
}

#define PC __builtin_return_address(0)
#define ACCESS(n)                                                                                          \
  void __tsan_read##n(char *a) { aligned(a, n, PC), check(a, n, false, PC); }                              \
  void __tsan_write##n(char *a) { aligned(a, n, PC), check(a, n, true, PC); }                              \
  void __tsan_unaligned_read##n(char *a) { check(a, n, false, PC); }                                       \
  void __tsan_unaligned_write##n(char *a) { check(a, n, true, PC); }                                       \
  void __tsan_read_write##n(char *a) { aligned(a, n, PC), check(a, n, false, PC), check(a, n, true, PC); } \
  void __tsan_unaligned_read_write##n(char *a) { check(a, n, false, PC), check(a, n, true, PC); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
#undef ACCESS
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_read_range(char *a, size_t n) { check(a, n, false, PC); }
void __tsan_write_range(char *a, size_t n) { check(a, n, true, PC); }
void *__tsan_memcpy(void *to, const void *from, size_t n) {
  check((char *)from, n, false, PC);
  check((char *)to, n, true, PC);
  return memcpy(to, from, n);
}
void *__tsan_memmove(void *to, const void *from, size_t n) {
  check((char *)from, n, false, PC);
  check((char *)to, n, true, PC);
  return memmove(to, from, n);
}
void *__tsan_memset(void *to, int value, size_t n) {
  check((char *)to, n, true, PC);
  return memset(to, value, n);
}

void msl_atomic(void *address, size_t n, int store, void *pc) {
  char *a = (char *)address;
  bool in_tg = tg.holds(a, n), in_vars = vars.holds(a, n);
  if (!in_tg && !in_vars) {
    for (int i = 0; i < n_buffers; i++)
      if (buffers[i].holds(a, n)) return;
    check(a, n, store, pc);
    return;
  }
  size_t offset = in_tg ? a - tg.low : tg.high - tg.low + (a - vars.low);
  if (store != 1 && memchr(written + offset, 0, n))
    msl_finding(uninitialised_threadgroup_read, nullptr, 0, pc, offset, 0);
  memset(written + offset, 1, n);
}

// The caller's place is used, not the one in `place`, for it can lie in the shim.
void __ubsan_handle_out_of_bounds(Place *, uintptr_t index) {
  msl_finding(private_out_of_bounds, nullptr, 0, PC, index, 0);
}
void __ubsan_handle_type_mismatch_v1(Place *, uintptr_t address) {
  msl_finding(misaligned_access, nullptr, 0, PC, address, 0);
}
void __ubsan_handle_shift_out_of_bounds(Place *, uintptr_t, uintptr_t by) {
  msl_finding(shift_out_of_range, nullptr, 0, PC, by, 0);
}
void __ubsan_handle_divrem_overflow(Place *, uintptr_t, uintptr_t) {
  msl_finding(division_by_zero, nullptr, 0, PC, 0, 0);
}
}
