// Runs Metal kernels on one OS thread: every Metal thread is a fiber with a stack of its own.
//
// A function of a simdgroup parks its lane; the last lane to arrive runs it for all and goes on, and a barrier
// works likewise. "The same function" is told by source line and implementation. Threadgroup memory has its exact
// size, ends at a guard page and is filled with 0xff (a NaN) before each threadgroup, as are `threadgroup`
// variables of kernel bodies where the first thread comes to them. Buffers end at a guard page too, and small integers see a trap where a GPU would
// go on: all this ends the process with the findings written, so launches belong into a child process.
#include "msl_abi.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__APPLE__)
#define _XOPEN_SOURCE 1
#include <sys/ucontext.h>
#else
#include <ucontext.h>
#endif
using namespace msl;

MSL_EXPORT void msl_write(int fd);

extern "C" {
extern const KernelRecord msl_kernels[];
extern const ConstantRecord msl_constants[];
#if defined(__APPLE__)
extern char msl_vars_start[] __asm("section$start$__DATA$msl_tgvar");
extern char msl_vars_end[] __asm("section$end$__DATA$msl_tgvar");
extern char msl_image[] __asm("__mh_dylib_header");
#else
extern char __start_msl_tgvar[] __attribute__((weak, visibility("hidden")));
extern char __stop_msl_tgvar[] __attribute__((weak, visibility("hidden")));
extern char __ehdr_start[] __attribute__((visibility("hidden")));
#define msl_vars_start __start_msl_tgvar
#define msl_vars_end __stop_msl_tgvar
#define msl_image __ehdr_start
#endif
void msl_switch(void **save, void *to);
}

// ---- switch of fibers: saves what the ABI has a callee save
#if defined(__x86_64__)
asm(R"(
.text
.globl msl_switch
.hidden msl_switch
.type msl_switch,@function
msl_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
#elif defined(__aarch64__)
#if defined(__APPLE__)
#define SYMBOL "_msl_switch"
#else
#define SYMBOL "msl_switch"
#endif
asm(".text\n.globl " SYMBOL "\n.p2align 2\n" SYMBOL ":\n"
    R"(
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
#else
#error "no switch of fibers for this processor"
#endif

namespace {
constexpr uint32_t MAX_THREADS = 1024, WIDTH = 32, MAX_TG_BYTES = 32768, MAX_FINDINGS = 256, MAX_CALLERS = 6;
constexpr uint32_t MAX_TG = 8, MAX_AREAS = 64, TG_FLAG = 2, DEVICE_FLAG = 1;
constexpr size_t STACK = 256 * 1024;
constexpr size_t SLACK = 64 * 1024; // what a checked build may touch behind an end
constexpr size_t GAP = 256;         // between two parts of threadgroup memory: 0 on a GPU, which hides what runs over
constexpr size_t TG_ROOM = MAX_TG_BYTES + 16 * 1024; // of whole pages, the largest too
static_assert(TG_ROOM >= MAX_TG_BYTES + MAX_TG * GAP, "room for the gaps");

enum State : uint8_t { RUNNING, IN_SIMD, IN_BARRIER, ENDED, LEVELLING };
struct Simdgroup;
struct Lane {
  void *sp;
  Simdgroup *group;
  State state;
  uint32_t number, aux, line;
  const char *file;
  msl_collective_fn fn;
  const void *in;
  void *out;
  int stored; // since the lane last came level with the others
  Context context;
};
struct Simdgroup {
  Lane *lanes;
  uint32_t size, live, waiting, number;
  uint32_t runnable; // bit per lane
  uint32_t levelling;
  uint32_t tg_epoch, device_epoch, epoch; // count the barriers that order memory between the lanes, and all
  uint32_t level;                         // counts the points at which all lanes were level
};
struct Finding {
  uint32_t kind, line;
  const char *file;
  uint64_t count, a, b;
  uint64_t callers[MAX_CALLERS];
  int n_callers;
  uint32_t group[3], thread;
};

Lane *lanes;
Simdgroup *groups;
uint32_t n_threads, n_groups, live_threads, waiting_threads;
uint32_t tg_epoch, device_epoch, epoch, serial; // never go back, so that what a shadow holds of earlier groups is stale
Area areas[MAX_AREAS];
uint32_t n_areas, n_arguments;
size_t tg_bytes;
void *main_sp;
Lane *running;
Lane *performing; // one of the lanes whose function of the simdgroup runs now
char *stacks, *tg_base;
const KernelRecord *kernel_;
Finding findings[MAX_FINDINGS];
int n_findings, n_untold;
uint64_t n_collectives, n_barriers, n_switches;
char error[512];
int level_lanes; // emulate lanes in step
int fatal;       // the launch cannot go on
uint32_t group_now[3];
size_t page, tg_room;

void switch_to(Lane *to) {
  n_switches++;
  Lane *from = running;
  running = to;
  msl_switch(&from->sp, to->sp);
}

// Gives the thread to the next lane of the simdgroup that can run, else to the scheduler.
void yield(Lane *lane) {
  Simdgroup *g = lane->group;
  if (fatal || (!g->runnable && !g->levelling)) {
    n_switches++;
    running = nullptr;
    msl_switch(&lane->sp, main_sp);
    return;
  }
  if (!g->runnable) {
    for (uint32_t m = g->levelling; m; m &= m - 1) g->lanes[__builtin_ctz(m)].state = RUNNING;
    g->runnable = g->levelling;
    g->levelling = 0;
  }
  uint32_t above = lane->number == 31 ? 0 : g->runnable & (~0u << (lane->number + 1));
  Lane *next = &g->lanes[__builtin_ctz(above ? above : g->runnable)];
  if (next != lane) switch_to(next);
}

void complete(Simdgroup *g, uint32_t mask) {
  Lane *first = &g->lanes[__builtin_ctz(mask)];
  performing = first;
  if (first->fn) first->fn(g, mask);
  performing = nullptr;
  // A function of the simdgroup exchanges its arguments; memory is ordered by barriers alone.
  g->level++;
  if (!first->fn) {
    g->epoch++;
    g->tg_epoch += !!(first->aux & TG_FLAG);
    g->device_epoch += !!(first->aux & DEVICE_FLAG);
  }
  for (uint32_t m = mask; m; m &= m - 1) g->lanes[__builtin_ctz(m)].state = RUNNING;
  g->runnable |= mask;
  g->waiting -= __builtin_popcount(mask);
}

int callers_of(void *pc, void **frame, uint64_t *out) {
  int n = 0;
  out[n++] = (char *)pc - msl_image;
  char *low = stacks, *high = stacks + STACK * MAX_THREADS;
  while (n < (int)MAX_CALLERS && (char *)frame > low && (char *)(frame + 2) <= high && ((uintptr_t)frame & 7) == 0) {
    void **next = (void **)frame[0];
    if (frame[1] && frame[1] != pc) out[n++] = (char *)frame[1] - msl_image;
    if (next <= frame) break;
    frame = next;
  }
  return n;
}

void add(uint32_t kind, const char *file, uint32_t line, void *pc, void **frame, uint64_t a, uint64_t b) {
  if (!pc && !file && performing) {
    file = performing->file;
    line = performing->line;
  }
  uint64_t at = pc ? (uint64_t)((char *)pc - msl_image) : 0;
  for (int i = 0; i < n_findings; i++) {
    Finding &f = findings[i];
    if (f.kind == kind && f.line == line && f.file == file && (file || f.callers[0] == at)) {
      f.count++;
      return;
    }
  }
  if (n_findings == (int)MAX_FINDINGS) {
    n_untold++;
    return;
  }
  Finding &f = findings[n_findings++];
  memset(&f, 0, sizeof f);
  f.kind = kind;
  f.file = file;
  f.line = line;
  f.count = 1;
  f.a = a;
  f.b = b;
  f.n_callers = pc ? callers_of(pc, frame, f.callers) : 0;
  memcpy(f.group, group_now, sizeof group_now);
  f.thread = running ? running->context.index_in_group : ~0u;
}

void lane_main() {
  kernel_->call(kernel_->params, running->context);
  Lane *lane = running;
  Simdgroup *g = lane->group;
  lane->state = ENDED;
  g->runnable &= ~(1u << lane->number);
  g->live--;
  live_threads--;
  yield(lane);
  __builtin_trap();
}

void start_fiber(Lane &lane, uint32_t i) {
  void **sp = (void **)(stacks + (i + 1) * STACK - 64);
#if defined(__x86_64__)
  *--sp = nullptr; // the return address of lane_main, which never returns
  *--sp = (void *)lane_main;
  for (int k = 0; k < 6; k++) *--sp = nullptr;
#else
  sp -= 20;
  memset(sp, 0, 160);
  sp[11] = (void *)lane_main;
#endif
  lane.sp = sp;
}

void start_group(const Context &common, const uint32_t *threads, uint32_t x, uint32_t y, uint32_t z) {
  group_now[0] = x, group_now[1] = y, group_now[2] = z;
  live_threads = n_threads;
  waiting_threads = 0;
  tg_epoch++, device_epoch++, epoch++, serial++;
  for (uint32_t s = 0; s < n_groups; s++) {
    uint32_t n = n_threads - s * WIDTH < WIDTH ? n_threads - s * WIDTH : WIDTH;
    groups[s] = Simdgroup{lanes + s * WIDTH, n, n, 0, s, n == 32 ? ~0u : (1u << n) - 1, 0, groups[s].tg_epoch + 1,
                          groups[s].device_epoch + 1, groups[s].epoch + 1, groups[s].level + 1};
  }
  for (uint32_t i = 0; i < n_threads; i++) {
    Lane &lane = lanes[i];
    lane.group = &groups[i / WIDTH];
    lane.number = i % WIDTH;
    lane.state = RUNNING;
    lane.stored = 0;
    Context &c = lane.context = common;
    uint32_t at[3] = {i % threads[0], i / threads[0] % threads[1], i / (threads[0] * threads[1])};
    for (int d = 0; d < 3; d++) {
      c.group_in_grid[d] = group_now[d];
      c.thread_in_group[d] = at[d];
      c.thread_in_grid[d] = group_now[d] * threads[d] + at[d];
    }
    c.index_in_group = i;
    c.lane = i % WIDTH;
    c.simdgroup = i / WIDTH;
    start_fiber(lane, i);
  }
}

// All threads that live have come to a barrier: they go on, and whatever is wrong with it is told.
void open_barrier(uint32_t flags, const char *file, uint32_t line) {
  for (uint32_t i = 0; i < n_threads; i++)
    if (lanes[i].state == IN_BARRIER && lanes[i].line != line) {
      msl_finding(divergent_barrier, file, line, nullptr, lanes[i].line, 0);
      break;
    }
  waiting_threads = 0;
  epoch++;
  if (flags & TG_FLAG) tg_epoch++;
  if (flags & DEVICE_FLAG) device_epoch++;
  for (uint32_t i = 0; i < n_threads; i++)
    if (lanes[i].state == IN_BARRIER) {
      lanes[i].state = RUNNING;
      lanes[i].group->runnable |= 1u << lanes[i].number;
    } else if (lanes[i].state == ENDED) {
      msl_finding(barrier_with_exited_threads, file, line, nullptr, n_threads - live_threads, n_threads);
    }
  for (uint32_t s = 0; s < n_groups; s++) {
    groups[s].epoch++, groups[s].level++;
    groups[s].tg_epoch += !!(flags & TG_FLAG);
    groups[s].device_epoch += !!(flags & DEVICE_FLAG);
  }
}

// Nobody can run: some lanes wait in a function of the simdgroup that others never reach, or in a barrier.
// Returns 0 where the threadgroup cannot go on.
int unblock() {
  for (uint32_t s = 0; s < n_groups; s++) {
    Simdgroup &g = groups[s];
    if (!g.waiting) continue;
    int first = -1;
    for (uint32_t l = 0; l < g.size; l++) // the lowest line comes first where control flow joins again below
      if (g.lanes[l].state == IN_SIMD && (first < 0 || g.lanes[l].line < g.lanes[first].line)) first = l;
    uint32_t mask = 0;
    for (uint32_t l = 0; l < g.size; l++)
      if (g.lanes[l].state == IN_SIMD && g.lanes[l].line == g.lanes[first].line && g.lanes[l].fn == g.lanes[first].fn)
        mask |= 1u << l;
    Lane &lane = g.lanes[first];
    bool exited = g.live == (uint32_t)__builtin_popcount(mask);
    msl_finding(exited ? simd_function_with_exited_lanes : divergent_simd_function, lane.file, lane.line, nullptr, mask,
                g.number);
    complete(&g, mask);
    return 1;
  }
  for (uint32_t i = 0; i < n_threads; i++)
    if (lanes[i].state == IN_BARRIER) {
      if (waiting_threads == live_threads) { // the others ended after these had come
        open_barrier(lanes[i].aux, lanes[i].file, lanes[i].line);
        return 1;
      }
      msl_finding(divergent_barrier, lanes[i].file, lanes[i].line, nullptr, waiting_threads, live_threads);
      snprintf(error, sizeof error, "%u of %u live threads wait at a barrier that the others do not reach",
               waiting_threads, live_threads);
      return 0;
    }
  snprintf(error, sizeof error, "no thread can go on");
  return 0;
}

int run_group() {
  while (live_threads && !fatal) {
    bool any = false;
    for (uint32_t s = 0; s < n_groups && !fatal; s++)
      if (groups[s].runnable) {
        any = true;
        running = &groups[s].lanes[__builtin_ctz(groups[s].runnable)];
        n_switches++;
        msl_switch(&main_sp, running->sp);
        running = nullptr;
      }
    if (!any && live_threads && !unblock()) return 0;
  }
  return !fatal;
}

// Where a signal hit: the program counter and the frame.
void place_of(void *context, void **pc, void ***frame) {
  ucontext_t *u = (ucontext_t *)context;
#if defined(__APPLE__) && defined(__aarch64__)
  *pc = (void *)u->uc_mcontext->__ss.__pc;
  *frame = (void **)u->uc_mcontext->__ss.__fp;
#elif defined(__APPLE__)
  *pc = (void *)u->uc_mcontext->__ss.__rip;
  *frame = (void **)u->uc_mcontext->__ss.__rbp;
#elif defined(__x86_64__)
  *pc = (void *)u->uc_mcontext.gregs[REG_RIP];
  *frame = (void **)u->uc_mcontext.gregs[REG_RBP];
#else
  *pc = (void *)u->uc_mcontext.pc;
  *frame = (void **)u->uc_mcontext.regs[29];
#endif
}

void on_signal(int number, siginfo_t *info, void *context) {
  void *pc;
  void **frame;
  place_of(context, &pc, &frame);
  uint32_t kind = number == SIGFPE ? division_by_zero : number == SIGILL ? illegal_instruction : memory_fault;
  char *address = (char *)info->si_addr;
  if (kind == memory_fault && tg_base && address >= tg_base + page + TG_ROOM &&
      address < tg_base + 2 * page + TG_ROOM + tg_room)
    kind = threadgroup_out_of_bounds;
  // Before clang 20 the check of local arrays knows no other way to tell; nothing else traps in a checked build.
  if (kind == illegal_instruction && msl_chk_linked()) kind = private_out_of_bounds, address = nullptr;
  add(kind, nullptr, 0, (char *)pc + 1, frame, (uint64_t)address, 0);
  msl_write(1);
  _exit(99);
}

void prepare() {
  if (stacks) return;
  page = (size_t)sysconf(_SC_PAGESIZE);
  stacks = (char *)mmap(0, STACK * MAX_THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
  for (uint32_t i = 0; i < MAX_THREADS; i++) mprotect(stacks + i * STACK, page, PROT_NONE);
  lanes = (Lane *)calloc(MAX_THREADS, sizeof(Lane));
  groups = (Simdgroup *)calloc(WIDTH, sizeof(Simdgroup));
  tg_room = msl_chk_linked() ? SLACK : 0;
  tg_base = (char *)mmap(0, TG_ROOM + tg_room + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
  mprotect(tg_base, page, PROT_NONE);
  mprotect(tg_base + TG_ROOM + tg_room + page, page, PROT_NONE);
}
} // namespace

extern "C" {
const void *msl_in(void *g, uint32_t l) { return ((Simdgroup *)g)->lanes[l].in; }
void *msl_out(void *g, uint32_t l) { return ((Simdgroup *)g)->lanes[l].out; }
uint32_t msl_aux(void *g, uint32_t l) { return ((Simdgroup *)g)->lanes[l].aux; }
uint32_t msl_lane() { return running->number; }

__attribute__((noinline)) void msl_finding(uint32_t kind, const char *file, uint32_t line, void *pc, uint64_t a,
                                           uint64_t b) {
  add(kind, file, line, pc, (void **)__builtin_frame_address(0), a, b);
}

const Who *msl_who() {
  static Who who;
  if (!running || performing) return nullptr;
  const Simdgroup *g = running->group;
  uint32_t i = g->number * WIDTH + running->number;
  char *stack = stacks + i * STACK;
  uint32_t level = g->level;
  who.thread = i + 1, who.simdgroup = g->number + 1, who.serial = serial;
  who.threadgroup = {tg_epoch, g->tg_epoch, level};
  who.device = {device_epoch, g->device_epoch, level};
  who.execution = {epoch, g->epoch, level};
  who.stack_low = stack, who.stack_high = stack + STACK;
  return &who;
}

void msl_tg_variable(void *at, size_t size, const char *file, uint32_t line) {
  for (uint32_t i = n_arguments; i < n_areas; i++)
    if (areas[i].low == at) return;
  if (n_areas == MAX_AREAS) return;
  areas[n_areas++] = {(char *)at, (char *)at + size};
  memset(at, 0xff, size);
  tg_bytes += (size + 15) & ~(size_t)15;
  if (tg_bytes > MAX_TG_BYTES) msl_finding(threadgroup_memory_limit, file, line, nullptr, tg_bytes, MAX_TG_BYTES);
  msl_chk_areas(areas, n_areas, 1);
}

// The checker has its own.
__attribute__((weak)) void msl_atomic(void *, size_t, int, void *) {}
__attribute__((weak)) int msl_chk_linked() { return 0; }
__attribute__((weak)) void msl_chk_begin(void **, size_t *, const uint8_t *, int, uint32_t, Area, Area, Area) {}
__attribute__((weak)) void msl_chk_areas(const Area *, int, int) {}

void msl_level(int is_store) {
  Lane *lane = running;
  if (!level_lanes || !lane || (!is_store && !lane->stored)) return;
  Simdgroup *g = lane->group;
  if (g->live > 1) {
    lane->state = LEVELLING;
    g->levelling |= 1u << lane->number;
    g->runnable &= ~(1u << lane->number);
    yield(lane);
  }
  lane->stored = is_store;
}

__attribute__((noinline)) void msl_collective(msl_collective_fn fn, const void *in, void *out, uint32_t aux,
                                              const char *file, uint32_t line) {
  Lane *lane = running;
  Simdgroup *g = lane->group;
  lane->fn = fn;
  lane->in = in;
  lane->out = out;
  lane->aux = aux;
  lane->file = file;
  lane->line = line;
  lane->stored = 0;
  lane->state = IN_SIMD;
  g->runnable &= ~(1u << lane->number);
  g->waiting++;
  n_collectives++;
  if (g->waiting == g->live) {
    uint32_t mask = 0;
    bool same = true;
    for (uint32_t l = 0; l < g->size; l++)
      if (g->lanes[l].state == IN_SIMD) {
        mask |= 1u << l;
        same &= g->lanes[l].line == line && g->lanes[l].fn == fn;
      }
    if (same) {
      if (g->live != g->size) msl_finding(simd_function_with_exited_lanes, file, line, nullptr, mask, g->number);
      complete(g, mask);
      return;
    }
  }
  yield(lane);
}

__attribute__((noinline)) void msl_threadgroup_barrier(uint32_t flags, const char *file, uint32_t line) {
  Lane *lane = running;
  lane->stored = 0;
  lane->aux = flags;
  lane->state = IN_BARRIER;
  lane->file = file;
  lane->line = line;
  lane->group->runnable &= ~(1u << lane->number);
  waiting_threads++;
  n_barriers++;
  if (waiting_threads < live_threads) {
    yield(lane);
    return;
  }
  open_barrier(flags, file, line);
}
}

// ---- called by the tool
MSL_EXPORT const char *msl_error() { return error; }
MSL_EXPORT void msl_set_level(int on) { level_lanes = on; }
MSL_EXPORT const char *msl_kind_name(uint32_t kind) {
#define X(name) #name,
  static const char *const names[] = {MSL_KINDS(X)};
#undef X
  return kind < KINDS ? names[kind] : nullptr;
}

MSL_EXPORT int msl_set_constant(int index, const void *value, int size) {
  int n = 0;
  for (const ConstantRecord *r = msl_constants; r->name; r++)
    if (r->index == index) {
      memset(r->address, 0, r->size);
      memcpy(r->address, value, size < r->size ? size : r->size);
      n++;
    }
  return n;
}

MSL_EXPORT void msl_clear_constants() {
  for (const ConstantRecord *r = msl_constants; r->name; r++) memset(r->address, 0, r->size);
}

// A part of a file in memory for a buffer of a kernel. Behind it a page that no one may touch; in a checked build,
// which has told by then, room that lets the kernel go on, so that its numbers can be compared.
MSL_EXPORT void *msl_map(int fd, size_t offset, size_t size) {
  prepare();
  size_t room = msl_chk_linked() ? SLACK : 0;
  char *at = (char *)mmap(0, size + room + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
  if (at == (char *)MAP_FAILED) return nullptr;
  void *mapped = mmap(at + page, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)offset);
  if (mapped == MAP_FAILED) return nullptr;
  if (room) mprotect(at + page + size, room, PROT_READ | PROT_WRITE);
  return mapped;
}
MSL_EXPORT void msl_unmap(void *at, size_t size) { munmap((char *)at - page, size + (msl_chk_linked() ? SLACK : 0) + 2 * page); }

// Signals that a kernel can cause become findings, and end the process after those are written.
MSL_EXPORT void msl_catch_signals() {
  static char stack[64 * 1024];
  stack_t alternate = {};
  alternate.ss_sp = stack;
  alternate.ss_size = sizeof stack;
  sigaltstack(&alternate, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
  for (int number : numbers) sigaction(number, &action, nullptr);
}

// One line for each finding: F kind count line file|- callers|- a b group thread; then one E line.
MSL_EXPORT void msl_write(int fd) {
  char text[1024];
  for (int i = 0; i < n_findings; i++) {
    const Finding &f = findings[i];
    int n = snprintf(text, sizeof text, "F\t%s\t%llu\t%u\t%s\t", msl_kind_name(f.kind), (unsigned long long)f.count,
                     f.line, f.file ? f.file : "-");
    for (int k = 0; k < f.n_callers; k++)
      n += snprintf(text + n, sizeof text - n, "%s%llx", k ? "," : "", (unsigned long long)f.callers[k]);
    n += snprintf(text + n, sizeof text - n, "%s\t%llx\t%llx\t%u,%u,%u\t%d\n", f.n_callers ? "" : "-",
                  (unsigned long long)f.a, (unsigned long long)f.b, f.group[0], f.group[1], f.group[2], (int)f.thread);
    if (n >= (int)sizeof text) n = sizeof text - 1;
    if (write(fd, text, n) < 0) return;
  }
  int n = snprintf(text, sizeof text, "E\t%llu\t%llu\t%llu\t%s\n", (unsigned long long)n_collectives,
                   (unsigned long long)n_barriers, (unsigned long long)n_switches, error);
  if (write(fd, text, n) < 0) return;
}

// Runs one kernel over the grid (in threadgroups). Returns 0, or 1 with msl_error() where it could not end.
MSL_EXPORT int msl_launch(const char *name, void **buffers, size_t *sizes, int n, const size_t *tg_sizes, int n_tg,
                          const uint32_t *grid, const uint32_t *threads) {
  prepare();
  n_findings = n_untold = 0;
  fatal = 0;
  error[0] = 0;
  n_collectives = n_barriers = n_switches = 0;
  kernel_ = nullptr;
  for (const KernelRecord *r = msl_kernels; r->name; r++)
    if (!strcmp(r->name, name)) kernel_ = r;
  if (!kernel_) return snprintf(error, sizeof error, "no kernel %s", name), 1;
  n_threads = threads[0] * threads[1] * threads[2];
  if (!n_threads || n_threads > MAX_THREADS)
    return snprintf(error, sizeof error, "%u threads per threadgroup (1 to %u)", n_threads, MAX_THREADS), 1;
  n_groups = (n_threads + WIDTH - 1) / WIDTH;
  Context common = {};
  size_t total = 0;
  for (int i = 0; i < n_tg; i++) total += (tg_sizes[i] + 15) & ~(size_t)15;
  if (total > MAX_TG_BYTES)
    return snprintf(error, sizeof error, "%zu bytes of threadgroup memory (at most %u)", total, MAX_TG_BYTES), 1;
  int used = 0;
  for (int i = 0; i < n_tg; i++) used += tg_sizes[i] > 0;
  char *tg = tg_base + page + TG_ROOM - total - (used > 1 ? (used - 1) * GAP : 0), *at = tg;
  n_arguments = 0;
  for (int i = 0; i < n_tg && i < (int)MAX_TG; i++) {
    size_t size = (tg_sizes[i] + 15) & ~(size_t)15;
    common.tg_memory[i] = at;
    if (!size) continue;
    areas[n_arguments++] = {at, at + size};
    at += size + GAP;
  }
  for (int i = 0; i < n && i < 32; i++) common.buffers[i] = buffers[i];
  for (int d = 0; d < 3; d++) {
    common.threads_per_group[d] = threads[d];
    common.groups_per_grid[d] = grid[d];
    common.threads_per_grid[d] = grid[d] * threads[d];
  }
  common.simdgroups = n_groups;
  uint8_t read_only[32] = {};
  for (int i = 0; i < kernel_->n_params; i++) {
    const Param &p = kernel_->params[i];
    if (p.kind == BUFFER && p.index < 32) read_only[p.index] = p.read_only;
  }
  msl_chk_begin(buffers, sizes, read_only, n, serial, {tg_base + page, tg_base + page + TG_ROOM + tg_room},
                {msl_vars_start, msl_vars_end}, {stacks, stacks + STACK * MAX_THREADS});
  for (uint32_t z = 0; z < grid[2]; z++)
    for (uint32_t y = 0; y < grid[1]; y++)
      for (uint32_t x = 0; x < grid[0]; x++) {
        n_areas = n_arguments;
        tg_bytes = total;
        for (uint32_t i = 0; i < n_areas; i++) memset(areas[i].low, 0xff, areas[i].high - areas[i].low);
        msl_chk_areas(areas, n_areas, n_areas);
        start_group(common, threads, x, y, z);
        if (!run_group()) return 1;
      }
  if (n_untold) snprintf(error, sizeof error, "more than %u places with findings; the rest is not told", MAX_FINDINGS);
  return 0;
}

// ---- conversions that older run-time libraries of compilers lack
extern "C" __attribute__((weak)) __bf16 __truncsfbf2(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  uint16_t r =
      (u & 0x7fffffff) > 0x7f800000 ? (uint16_t)(u >> 16 | 0x40) : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
  __bf16 out;
  memcpy(&out, &r, 2);
  return out;
}
extern "C" __attribute__((weak)) __bf16 __truncdfbf2(double d) { return __truncsfbf2((float)d); }
