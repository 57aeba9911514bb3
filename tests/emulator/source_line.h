// Names the source line of an instruction, for messages.
#pragma once

#include <string>

namespace gla::emulator {

/// " at chunk_forward.cuh:120" for the instruction that ends before `return_address`: of the calls that were
/// inlined there, the innermost outside templates/device/. Empty for null. Without debug information or
/// addr2line: the file.
std::string source_line(const void* return_address);

}  // namespace gla::emulator
