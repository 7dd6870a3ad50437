/* Runs kernels of micro.metal that take one buffer of 64 floats, named by arguments behind the library. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>

int main(int argc, char **argv) {
  void *so = dlopen(argv[1], RTLD_NOW);
  if (!so) {
    puts(dlerror());
    return 2;
  }
  int (*launch)(const char *, void **, size_t *, int, const size_t *, int, const uint32_t *, const uint32_t *) =
      dlsym(so, "msl_launch");
  void (*write_findings)(int) = dlsym(so, "msl_write");
  float y[64];
  void *buffers[] = {y};
  size_t sizes[] = {sizeof y}, threadgroup[] = {256};
  uint32_t grid[] = {1, 1, 1}, threads[] = {64, 1, 1};
  for (int i = 2; i < argc; i++) {
    int status = launch(argv[i], buffers, sizes, 1, threadgroup, 1, grid, threads);
    printf("%s %d %g %g\n", argv[i], status, y[0], y[63]);
    fflush(stdout);
    write_findings(1);
  }
}
