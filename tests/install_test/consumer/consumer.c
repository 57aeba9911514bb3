/* The same over the installed C ABI: the header compiles as C, and the library is the one it describes. */
#include <gla/gla.h>
#include <stdio.h>
#include <string.h>

int main(void) {
  gla_context_options options;
  gla_context* context = NULL;
  gla_status status;
  if (gla_abi_version() != GLA_ABI_VERSION) return 1;

  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  status = gla_context_create(&options, &context);
  if (status != GLA_OK && gla_last_error()[0] == '\0') return 2;

  printf("libgla %s; context: %s\n", gla_version(), status == GLA_OK ? "ok" : gla_last_error());
  gla_context_destroy(context);
  return 0;
}
