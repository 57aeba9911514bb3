// Counts this thread's heap allocations; linking allocations.cpp replaces operator new.
#pragma once

namespace gla::test {

long allocations();

}  // namespace gla::test
