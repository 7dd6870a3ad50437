// Checks every memory access of a kernel that was compiled with -fsanitize=thread and some of undefined,bounds.
//
// It answers the calls that those options insert; no sanitizer library is linked, so the result loads anywhere. An
// access must lie in a buffer of the launch, in the module's constants, in the thread's own stack or in one part of
// threadgroup memory. Of threadgroup memory and of buffers that a kernel may write it is remembered who wrote and read
// last, and in which epoch. What was written is seen by others behind a barrier that names that memory, of all threads
// or of a simdgroup's; what was read may be written behind any barrier. A function of the simdgroup is none: Metal does
// not say that it orders memory.
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
// Threads and simdgroups count from 1, 0 is nobody. Epochs never go back, so nothing has to be cleared.
struct Cell {
  uint32_t writer;
  Epochs written;
  uint32_t reader, foreign; // of the last simdgroup that read, and of another one in the same epoch
  Epochs read;
  bool more; // readers in that simdgroup and its epoch
};
// The same for a part of a buffer, and the threadgroups that touched it: they run in no order, so that one must not
// touch what another writes. Aligned accesses of four bytes and more have a record for each four, others one for each byte.
struct Touched {
  uint32_t write_serial, read_serial;
  Cell cell;
};
constexpr uint32_t ANY = ~0u;
struct Buffer {
  Range range;
  bool tracked;
};
struct {
  Touched *words, *bytes;
  size_t room;
  bool used; // the bytes, in this launch
} touched[32];
uint32_t first_serial; // of this launch
Buffer buffers[32];
Range tg, vars, stacks, image;
int n_buffers, n_areas;
const Area *areas;
// Aligned accesses of two bytes and more have a cell for each two, others one for each byte: lanes that write
// neighbouring bytes do not race.
Cell *pairs, *bytes;
bool single_bytes; // some were met in this threadgroup
uint8_t *written;

uint32_t simdgroup_of(uint32_t thread) { return (thread + 31) / 32; }

// The thread, from 1, whose access the new one races with, and what kind of race that is: lanes that were level in
// between, but for whom no barrier ordered memory, have a kind of their own.
uint32_t conflict(const Cell &c, const Who &me, Epochs now, bool store, uint32_t *kind) {
  Epochs reached = me.execution;
  if (c.writer && c.writer != me.thread && c.written.group == now.group) {
    bool near = simdgroup_of(c.writer) == me.simdgroup;
    *kind = !near ? threadgroup_race : c.written.level == now.level ? simdgroup_race : simdgroup_unordered;
    if (!near || c.written.simd == now.simd) return c.writer;
  }
  if (!store || !c.reader || c.read.group != reached.group) return 0;
  *kind = threadgroup_race;
  if (simdgroup_of(c.reader) != me.simdgroup) return c.reader;
  if (c.foreign) return c.foreign;
  *kind = c.read.level == now.level ? simdgroup_race : simdgroup_unordered;
  return c.read.simd == reached.simd && (c.reader != me.thread || c.more) ? c.reader : 0;
}

void note(Cell &c, const Who &me, Epochs now, bool store) {
  if (store) {
    c.writer = me.thread;
    c.written = now;
    return;
  }
  now = me.execution;
  bool again = c.reader && c.read.group == now.group;
  bool near = again && simdgroup_of(c.reader) == me.simdgroup;
  if (near && c.read.simd == now.simd) {
    c.more |= c.reader != me.thread;
    c.read.level = now.level;
    return;
  }
  c.foreign = !again ? 0 : near ? c.foreign : c.reader;
  c.reader = me.thread;
  c.read = now;
  c.more = false;
}

void device_access(int buffer, char *a, size_t n, bool store, void *pc) {
  Buffer &b = buffers[buffer];
  if (!b.tracked && !store) return;
  const Who *me = msl_who();
  if (!me) return;
  auto &t = touched[buffer];
  uint32_t serial = me->serial, other = 0, kind;
  bool race = false;
  auto look = [&](const Touched &x) {
    race |= x.write_serial >= first_serial && x.write_serial != serial;
    race |= store && x.read_serial >= first_serial && x.read_serial != serial;
    if (uint32_t thread = conflict(x.cell, *me, me->device, store, &kind)) other = thread;
  };
  auto mark = [&](Touched &x) {
    note(x.cell, *me, me->device, store);
    if (store)
      x.write_serial = serial;
    else
      x.read_serial = x.read_serial >= first_serial && x.read_serial != serial ? ANY : serial;
  };
  size_t from = a - b.range.low, to = from + n;
  if ((from | n) % 4 == 0) {
    for (size_t i = from / 4; i < to / 4; i++) look(t.words[i]), mark(t.words[i]);
    for (size_t i = from; t.used && i < to; i++) look(t.bytes[i]);
  } else {
    for (size_t i = from / 4; i <= (to - 1) / 4; i++) look(t.words[i]);
    for (size_t i = from; i < to; i++) look(t.bytes[i]), mark(t.bytes[i]);
    t.used = true;
  }
  if (race)
    msl_finding(device_race, nullptr, 0, pc, a - b.range.low, 0);
  else if (other)
    msl_finding(device_race, nullptr, 0, pc, a - b.range.low, other);
}

void shadow(size_t offset, size_t n, bool store, void *pc, size_t shown) {
  msl_level(store);
  const Who *me = msl_who();
  if (!me) return;
  Epochs now = me->threadgroup;
  uint32_t other = 0, found = 0, kind = 0;
  size_t end = offset + n;
  auto look = [&](const Cell &c) {
    if (uint32_t thread = conflict(c, *me, now, store, &kind)) other = thread, found = kind;
  };
  if ((offset | n) % 2 == 0) {
    for (size_t i = offset / 2; i < end / 2; i++) look(pairs[i]), note(pairs[i], *me, now, store);
    for (size_t i = offset; single_bytes && i < end; i++) look(bytes[i]);
  } else {
    for (size_t i = offset / 2; i <= (end - 1) / 2; i++) look(pairs[i]);
    for (size_t i = offset; i < end; i++) look(bytes[i]), note(bytes[i], *me, now, store);
    single_bytes = true;
  }
  if (other) msl_finding(found, nullptr, 0, pc, shown, other - 1);
  if (store)
    memset(written + offset, 1, n);
  else if (memchr(written + offset, 0, n))
    msl_finding(uninitialised_threadgroup_read, nullptr, 0, pc, shown, 0);
}

// Where the shadow of an address in threadgroup memory lies: arguments come first, then variables.
size_t place(char *a) { return a >= tg.low && a < tg.high ? a - tg.low : tg.high - tg.low + (a - vars.low); }

void threadgroup_access(char *a, size_t n, bool store, void *pc) {
  const Area *nearest = nullptr;
  size_t least = ~(size_t)0;
  for (int i = 0; i < n_areas; i++) {
    const Area &x = areas[i];
    if (a >= x.low && a + n <= x.high) return shadow(place(a), n, store, pc, a - x.low);
    size_t distance = a < x.low ? x.low - a : a >= x.high ? a - x.high : 0;
    if (distance < least) least = distance, nearest = &x;
  }
  msl_finding(threadgroup_out_of_bounds, nullptr, 0, pc, nearest ? (uint64_t)(a - nearest->low) : 0, n);
}

void check(char *a, size_t n, bool store, void *pc) {
  if (!n) return;
  if (stacks.holds(a, n)) {
    const Who *me = msl_who();
    if (me && (a < me->stack_low || a + n > me->stack_high)) msl_finding(private_out_of_bounds, nullptr, 0, pc, 0, n);
    return;
  }
  if ((a >= tg.low && a < tg.high) || (a >= vars.low && a < vars.high)) return threadgroup_access(a, n, store, pc);
  for (int i = 0; i < n_buffers; i++)
    if (buffers[i].range.holds(a, n)) return device_access(i, a, n, store, pc);
  if (image.holds(a, n)) return;
  bool before = a < tg.low && a >= tg.low - 16384;
  msl_finding(before ? threadgroup_out_of_bounds : device_out_of_bounds, nullptr, 0, pc,
              before ? a - areas[0].low : (uint64_t)a, n);
}

void aligned(char *a, size_t n, void *pc) {
  if ((uintptr_t)a % (n > 8 ? 8 : n)) msl_finding(misaligned_access, nullptr, 0, pc, (uint64_t)a, n);
}

struct Data;
} // namespace

extern "C" {
int msl_chk_linked() { return 1; }
void msl_chk_begin(void **b, size_t *sizes, const uint8_t *read_only, int n, uint32_t serial, Area tg_at, Area vars_at,
                   Area stacks_at) {
  static size_t room;
  n_buffers = 0;
  for (int i = 0; i < n && i < 32; i++)
    if (b[i]) buffers[n_buffers++] = {{(char *)b[i], (char *)b[i] + sizes[i]}, !read_only[i]};
  // What is bound twice and written in one of the places is the same memory.
  for (int i = 0; i < n_buffers; i++)
    for (int k = 0; k < n_buffers; k++)
      if (buffers[k].tracked && buffers[k].range.low < buffers[i].range.high &&
          buffers[i].range.low < buffers[k].range.high)
        buffers[i].tracked = true;
  for (int i = 0; i < n_buffers; i++) {
    size_t size = buffers[i].range.high - buffers[i].range.low;
    auto &t = touched[i];
    if (size > t.room) {
      free(t.words);
      free(t.bytes);
      t.words = (Touched *)calloc(size / 4 + 1, sizeof(Touched));
      t.bytes = (Touched *)calloc(size, sizeof(Touched)); // pages that nobody touches cost nothing
      t.room = size;
    }
    t.used = false;
  }
  first_serial = serial + 1;
  tg = {tg_at.low, tg_at.high};
  vars = {vars_at.low, vars_at.high};
  stacks = {stacks_at.low, stacks_at.high};
  image = {msl_image, msl_image_end};
  size_t need = tg.high - tg.low + (vars.high - vars.low) + 16;
  if (need > room) {
    free(pairs);
    free(bytes);
    free(written);
    pairs = (Cell *)calloc(need / 2 + 1, sizeof(Cell));
    bytes = (Cell *)calloc(need, sizeof(Cell));
    written = (uint8_t *)calloc(need, 1);
    room = need;
  }
}
void msl_chk_areas(const Area *all, int n, int n_new) {
  areas = all;
  n_areas = n;
  for (int i = n - n_new; i < n; i++) memset(written + place(areas[i].low), 0, areas[i].high - areas[i].low);
  if (n_new == n) single_bytes = false;
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
  bool in_tg = tg.holds(a, n) || vars.holds(a, n);
  for (int i = 0; !in_tg && i < n_buffers; i++)
    if (buffers[i].range.holds(a, n)) return;
  for (int i = 0; in_tg && i < n_areas; i++)
    if (a >= areas[i].low && a + n <= areas[i].high) {
      if (store != 1 && memchr(written + place(a), 0, n))
        msl_finding(uninitialised_threadgroup_read, nullptr, 0, pc, a - areas[i].low, 0);
      memset(written + place(a), 1, n);
      return;
    }
  check(a, n, store, pc);
}

// The caller's place is used, not the one in the data, for it can lie in the shim.
void __ubsan_handle_out_of_bounds(Data *, uintptr_t index) {
  msl_finding(private_out_of_bounds, nullptr, 0, PC, index, 0);
}
void __ubsan_handle_type_mismatch_v1(Data *, uintptr_t address) {
  msl_finding(misaligned_access, nullptr, 0, PC, address, 0);
}
void __ubsan_handle_shift_out_of_bounds(Data *, uintptr_t, uintptr_t by) {
  msl_finding(shift_out_of_range, nullptr, 0, PC, by, 0);
}
void __ubsan_handle_local_out_of_bounds() { msl_finding(private_out_of_bounds, nullptr, 0, PC, 0, 0); }
void __ubsan_handle_divrem_overflow(Data *, uintptr_t, uintptr_t) {
  msl_finding(division_by_zero, nullptr, 0, PC, 0, 0);
}
}
